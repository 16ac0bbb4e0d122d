"""``ALL_SERVICES`` in ``shop/settings.py`` is the list of services. Every other list is checked against it here."""

import re
import tomllib
from collections.abc import Iterator

import pytest
import yaml
from django.conf import settings

from tests.architecture.conftest import ROOT

TEXT = {name: (ROOT / name).read_text() for name in ("pyproject.toml", "Procfile", ".env.example", ".dockerignore")}
LINTER = tomllib.loads(TEXT["pyproject.toml"])["tool"]["importlinter"]
COMPOSE = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]


def import_contract(name: str) -> dict[str, list[str]]:
    [contract] = [contract for contract in LINTER["contracts"] if contract["name"].startswith(name)]
    return contract  # type: ignore[no-any-return]


def lists_without(service: str) -> Iterator[str]:
    """What is still to be done for a service that is named in ``ALL_SERVICES``."""
    layers = import_contract("Imports point one way")["layers"]
    for where, names in {
        "root_packages": LINTER["root_packages"],
        "the layers of the first contract": [name for layer in layers for name in layer.split(" | ")],
        "the contract on independence": import_contract("Services do not import")["modules"],
        "the contract on Celery": import_contract("What a service can do")["source_modules"],
    }.items():
        if service not in names:
            yield f"pyproject.toml: add {service} to {where}"
    for process in (f"relay-{service}", f"worker-{service}"):
        if not re.search(rf"(?m)^{process}: .*\b{service}\b", TEXT["Procfile"]):
            yield f"Procfile: add the process {process}, like that of another service"
        if process not in COMPOSE:
            yield f"docker-compose.yml: add the service {process}, like that of another service"
    if not re.search(rf"(?m)^#{service.upper()}_DATABASE_URL=", TEXT[".env.example"]):
        yield f".env.example: explain {service.upper()}_DATABASE_URL"
    if not re.search(rf"(?m)^#SHOP_SERVICES=.*\b{service}\b", TEXT[".env.example"]):
        yield f".env.example: add {service} to SHOP_SERVICES"
    if f"!{service}" not in TEXT[".dockerignore"].splitlines():
        yield f".dockerignore: let the folder {service} in"


@pytest.mark.parametrize("service", settings.ALL_SERVICES)
def test_every_list_names_the_service(service: str) -> None:
    assert list(lists_without(service)) == []


def test_every_list_is_looked_at() -> None:
    assert len(list(lists_without("returns"))) == 4 + 2 + 2 + 2 + 1
