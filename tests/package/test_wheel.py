"""What is in the wheel, and what it needs."""

import ast
import sys
from collections.abc import Iterator
from importlib.metadata import packages_distributions
from pathlib import Path
from tomllib import loads
from zipfile import ZipFile

import pytest

from tests.package.conftest import ROOT, WheelEnvironment

pytestmark = pytest.mark.processes

SOURCE = ROOT / "choreography"
PROJECT = loads((SOURCE / "pyproject.toml").read_text())["project"]

#: Imports every module but those of Django apps' models, which need settings.
IMPORT_ALL = """
import pkgutil, django, choreography
from django.conf import settings
settings.configure(INSTALLED_APPS=["django.contrib.admin", "django.contrib.auth", "django.contrib.contenttypes",
    "django.contrib.messages", "django.contrib.sessions", "choreography"], CHOREOGRAPHY={"SERVICES": ()})
django.setup()
names = [module.name for module in pkgutil.walk_packages(choreography.__path__, "choreography.")]
for name in names:
    __import__(name)
print(len(names), choreography.__file__)
"""


def test_the_wheel_holds_the_package_and_nothing_else(wheel: Path) -> None:
    names = set(ZipFile(wheel).namelist())
    here = {
        str(path.relative_to(ROOT))
        for path in SOURCE.rglob("*")
        if path.suffix in {".py", ".html", ".py-tpl"} or path.name == "py.typed"
    }

    assert {name for name in names if ".dist-info/" not in name} == here
    assert "choreography/py.typed" in names
    assert any(name.endswith(".dist-info/licenses/LICENSE") for name in names)


def test_every_module_can_be_imported_where_only_the_package_is_installed(
    wheel_environment: WheelEnvironment, tmp_path: Path
) -> None:
    count, path = wheel_environment.succeed("python", "-c", IMPORT_ALL, cwd=tmp_path).split()

    assert int(count) > 40
    assert Path(path).is_relative_to(wheel_environment.folder)


def test_what_the_package_imports_is_what_it_declares() -> None:
    imported = {name for path in SOURCE.rglob("*.py") for name, _ in imports(path.read_text())}
    foreign = imported - sys.stdlib_module_names - {"choreography"}
    declared = {normal(requirement) for requirement in PROJECT["dependencies"]} | {
        "psycopg2-binary",
        "prometheus-client",
        "opentelemetry-api",
    }
    # Several distributions share the name ``opentelemetry``.
    used = [declared & set(map(normal, packages_distributions()[name])) for name in foreign]

    assert all(used), "each import belongs to something that is declared"
    assert declared == set().union(*used)


def test_the_driver_of_postgresql_is_imported_only_where_it_is_used() -> None:
    at_the_top = [
        path.name
        for path in SOURCE.rglob("*.py")
        for name, is_at_the_top in imports(path.read_text())
        if name == "psycopg2" and is_at_the_top
    ]

    assert at_the_top == []


@pytest.mark.parametrize("extra", PROJECT["optional-dependencies"])
def test_an_extra_names_what_the_shop_has_locked(extra: str) -> None:
    locked = (ROOT / "requirements-dev.txt").read_text()

    for requirement in PROJECT["optional-dependencies"][extra]:
        assert f"\n{normal(requirement)}==" in locked


def imports(source: str) -> Iterator[tuple[str, bool]]:
    """The packages a module imports, and whether it does so when it is imported itself."""
    tree = ast.parse(source)
    for node in ast.walk(tree):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names = [node.module]
        for name in names:
            yield name.partition(".")[0], node in tree.body


def normal(requirement: str) -> str:
    """``Uuid_Utils>=0.9`` -> ``uuid-utils``"""
    return requirement.partition(">")[0].lower().replace("_", "-")
