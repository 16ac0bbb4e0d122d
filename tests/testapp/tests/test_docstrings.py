"""The examples in the package's docstrings work."""

import ast
import inspect
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import choreography
from choreography import simulation, testing
from choreography.events import external_systems
from choreography.storage.tables import ServiceTables
from tests.testapp.services.billing.models import Bill
from tests.testapp.services.billing.printer import Printer
from tests.testapp.services.kitchen import services

SOURCE = Path(choreography.__file__).parent


def examples(path: Path) -> Iterator[str]:
    """The indented blocks after ``::`` in the docstrings of a module."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef):
            _, marker, after = (ast.get_docstring(node) or "").partition("::\n")
            if marker:
                yield textwrap.dedent("".join(line for line in after.splitlines(keepends=True) if line[:1] in " \n"))


def the_example_in(module: Any) -> str:
    [example] = examples(Path(inspect.getfile(module)))
    return example


def cook() -> None:
    services.cook("table 7", "soup", 850)


def test_there_are_no_others() -> None:
    found = {path.relative_to(SOURCE).as_posix() for path in SOURCE.rglob("*.py") for _ in examples(path)}

    assert found == {"testing.py", "simulation/__init__.py", "events/external_systems.py"}


@pytest.mark.usefixtures("db")
def test_that_of_testing() -> None:
    names: dict[str, Any] = vars(testing) | {"place_order": cook}

    exec(the_example_in(testing), names)

    assert Bill.objects.get(pk="table 7").total == 850
    names["choreography"].close()


def test_that_of_external_systems() -> None:
    names: dict[str, Any] = vars(external_systems) | {"Gateway": Printer}

    exec(the_example_in(external_systems), names)

    assert isinstance(names["gateway"], external_systems.ExternalSystem)


@pytest.mark.django_db(databases="__all__", transaction=True)
def test_that_of_the_simulation() -> None:
    def nobody_is_billed_twice() -> None:
        assert not Bill.objects.filter(total__gt=850 * ServiceTables("kitchen").outbox.count())

    names: dict[str, Any] = vars(simulation) | {"place_order": cook, "nobody_is_billed_twice": nobody_is_billed_twice}

    exec(the_example_in(simulation), names)

    names["test_nobody_is_billed_twice"](None)
