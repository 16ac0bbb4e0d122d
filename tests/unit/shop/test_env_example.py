"""``.env.example`` names every variable the shop reads, says what it means, and holds no secret."""

import re
import runpy
from collections.abc import Iterator

import environ
import pytest

from tests.unit.shop.conftest import EXAMPLE, ROOT, VARIABLES, read_by_code, variables_in

SECRETS = ("SECRET_KEY", "ADMIN_PASSWORD", "FLOWER_PASSWORD", "POSTGRES_PASSWORD", "RABBITMQ_PASSWORD")


def read_by_processes() -> Iterator[str]:
    """The variables of the Procfile and of docker-compose.yml: ``${NAME}``, and names that are handed on."""
    compose = (ROOT / "docker-compose.yml").read_text()
    yield from re.findall(r"\$\{([A-Z_]+)", (ROOT / "Procfile").read_text() + compose)
    yield from re.findall(r"^\s+([A-Z_]+):$", compose, re.MULTILINE)


def read_by_make() -> Iterator[str]:
    """What can be set on make's command line."""
    makefile = (ROOT / "Makefile").read_text()
    yield from re.findall(r"^([A-Z_]+) \?=", makefile, re.MULTILINE)
    yield from re.findall(r"^export ([A-Z_]+) :?=", makefile, re.MULTILINE)


@pytest.fixture
def read(read_by_settings: set[str]) -> set[str]:
    return read_by_settings | {*read_by_code(), *read_by_processes(), *read_by_make()}


def test_every_variable_that_is_read_is_named(read: set[str]) -> None:
    assert read <= VARIABLES.keys()


def test_every_variable_that_is_named_is_read(read: set[str]) -> None:
    assert VARIABLES.keys() <= read


def test_the_variables_of_each_database_are_among_them(read_by_settings: set[str]) -> None:
    assert {"DATABASE_URL", "ACCOUNTS_DATABASE_URL", "PAYMENTS_DATABASE_URL"} <= read_by_settings


def test_code_that_reads_the_environment_is_found() -> None:
    source = 'os.environ["ONE"]; os.environ.get("TWO", ""); os.getenv("THREE"); env.int("FOUR"); table["FIVE"]'

    assert set(variables_in(source)) == {"ONE", "TWO", "THREE", "FOUR"}


def test_each_variable_is_explained_once() -> None:
    lines = EXAMPLE.splitlines()
    places = [number for number, line in enumerate(lines) if re.match(r"#[A-Z_]+=", line)]

    assert len(places) == len(VARIABLES)
    assert all(lines[number - 1].startswith("# ") for number in places)


def test_taking_the_file_as_it_is_changes_nothing() -> None:
    assert all(line.startswith("#") for line in EXAMPLE.splitlines() if line)


def test_no_secret_has_a_value() -> None:
    assert {name: VARIABLES[name] for name in SECRETS} == dict.fromkeys(SECRETS, "")
    assert all("PASSWORD" not in name and "SECRET" not in name for name in VARIABLES.keys() - set(SECRETS))


def test_the_defaults_are_those_of_the_settings(read_by_settings: set[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(environ.Env, "read_env", lambda *args, **kwargs: None)
    unset = runpy.run_path(str(ROOT / "shop" / "settings.py"))

    for name in read_by_settings & VARIABLES.keys():
        if isinstance(unset.get(name), float):
            assert float(VARIABLES[name]) == unset[name], name
        if isinstance(unset.get(name), str) and name not in SECRETS:
            assert VARIABLES[name] == unset[name], name
