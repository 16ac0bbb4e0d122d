"""Where histories run in tests: databases that really commit."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.simulation.run import Simulator, simulator


@pytest.fixture
def shops(transactional_db: None, tmp_path: Path) -> Iterator[Simulator]:
    """A simulator."""
    with simulator(tmp_path) as opened:
        yield opened


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if "tests/simulation" in str(item.path) and "shops" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.django_db(transaction=True, databases="__all__"))
