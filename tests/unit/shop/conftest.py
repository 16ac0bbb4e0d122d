"""Which environment variables the shop reads, found in its code."""

import ast
import re
import runpy
from collections.abc import Iterator
from pathlib import Path

import environ
import pytest
from django.conf import settings

ROOT = Path(__file__).resolve().parents[3]
PACKAGES = ("shop", "common", "choreography", *settings.ALL_SERVICES)
EXAMPLE = (ROOT / ".env.example").read_text()

#: What ``.env.example`` names -> the value behind it.
VARIABLES = dict(re.findall(r"^#([A-Z_]+)=(.*)$", EXAMPLE, re.MULTILINE))

#: Variables of the system and of Django: not the shop's to explain.
FOREIGN = {"PATH", "HOME", "DJANGO_SETTINGS_MODULE"}


@pytest.fixture
def read_by_settings(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """The variables the settings ask for, found by running them."""
    asked: set[str] = set()
    original = environ.Env.get_value

    def recording(self: environ.Env, var: str, *args: object, **kwargs: object) -> object:
        asked.add(var)
        return original(self, var, *args, **kwargs)

    monkeypatch.setattr(environ.Env, "get_value", recording)
    monkeypatch.setattr(environ.Env, "read_env", lambda *args, **kwargs: None)
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    runpy.run_path(str(ROOT / "shop" / "settings.py"))
    return asked


def read_by_code() -> Iterator[str]:
    """The variables other code asks for: ``os.environ["X"]``, ``os.environ.get("X")``, ``env.str("X")`` and so on."""
    for package in PACKAGES:
        for path in (ROOT / package).rglob("*.py"):
            yield from (name for name in variables_in(path.read_text()) if name not in FOREIGN)


def variables_in(source: str) -> Iterator[str]:
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.Subscript(value=where, slice=ast.Constant(value=str(name))):
                pass
            case ast.Call(func=ast.Attribute(value=where), args=[ast.Constant(value=str(name)), *_]):
                pass
            case _:
                continue
        if ast.unparse(where) in ("os.environ", "environ", "env", "settings.env", "os") and name.isupper():
            yield name
