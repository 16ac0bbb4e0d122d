"""The choreography knows no service: none is named in its code."""

import ast
import re
from collections.abc import Iterator

from django.conf import settings

from tests.architecture.conftest import ROOT


def named_services(source: str) -> Iterator[str]:
    """The string constants of a module that name a service. Docstrings may: examples need names."""
    tree = ast.parse(source)
    documentation = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    name = re.compile(rf"\b({'|'.join(settings.ALL_SERVICES)})\b")
    for node in ast.walk(tree):
        match node:
            case ast.Constant(value=str(text)) if id(node) not in documentation and name.search(text):
                yield text


def test_the_choreography_names_no_service() -> None:
    naming = {
        f"{path.relative_to(ROOT)}: {text}"
        for path in (ROOT / "choreography").rglob("*.py")
        for text in named_services(path.read_text())
    }

    assert not naming


def test_a_planted_name_is_found() -> None:
    source = (
        '"""Payments react."""\nqueue = f"{namespace}payments"\ntask = "orders.cancel_order"\nborders = "borders"\n'
    )

    assert sorted(named_services(source)) == ["orders.cancel_order", "payments"]
