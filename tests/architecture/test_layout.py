"""The top of the repository, and the shape every service has."""

import importlib
import inspect
import re

import pytest
from django.conf import settings

import choreography
from tests.architecture.conftest import PACKAGES, ROOT

#: Folders that may hold Python, besides the packages of the shop itself.
AROUND = {"tests", "bench", "docs"}
SERVICE = {"__init__", "events", "reactions", "services", "models", "admin", "apps"}


def test_the_top_holds_the_packages_it_should() -> None:
    holding_python = {path.parent.name for path in ROOT.glob("[a-z]*/*.py")}

    assert holding_python - AROUND == set(PACKAGES)


def test_only_manage_py_lies_beside_them() -> None:
    assert [path.name for path in ROOT.glob("*.py")] == ["manage.py"]


@pytest.mark.parametrize("service", settings.ALL_SERVICES)
def test_a_service_has_the_shape_of_a_service(service: str) -> None:
    modules = {path.stem for path in (ROOT / service).glob("*.py")}

    assert modules >= SERVICE
    assert (ROOT / service / "migrations").is_dir()


@pytest.mark.parametrize("service", settings.ALL_SERVICES)
def test_a_service_has_a_card(service: str) -> None:
    card = importlib.import_module(service).__doc__ or ""

    assert all(word in card.lower() for word in ("owns", "announces", "reacts to"))


def test_the_package_lists_all_its_parts() -> None:
    listed = set(re.findall(r"^``(\w+)``", choreography.__doc__ or "", re.MULTILINE))
    parts = {path.name for path in (ROOT / "choreography").iterdir() if (path / "__init__.py").exists()}

    assert listed == parts | {"testing"}


def test_the_public_names_are_those_it_imports() -> None:
    assert set(choreography.__all__) == {
        name for name, value in vars(choreography).items() if not name.startswith("_") and not inspect.ismodule(value)
    }
