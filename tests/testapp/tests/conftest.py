"""An open kitchen: all services in one process, around a broker in memory, on a frozen clock."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from pytest_django.fixtures import Settings

from choreography.testing import Choreography, frozen_clock
from tests.testapp.services.billing.printer import FakePrinter


@pytest.fixture(autouse=True)
def data_dir(tmp_path: Path, settings: Settings) -> Path:
    """A data folder per test."""
    settings.CHOREOGRAPHY = settings.CHOREOGRAPHY | {"DATA_DIR": tmp_path, "CONTRACTS_DIR": tmp_path / "contracts"}
    return tmp_path


@pytest.fixture(autouse=True)
def printer(monkeypatch: pytest.MonkeyPatch) -> type[FakePrinter]:
    """The receipt printer, with nothing printed yet."""
    monkeypatch.setattr(FakePrinter, "lines", [])
    monkeypatch.setattr(FakePrinter, "is_offline", False)
    monkeypatch.setattr(FakePrinter, "has_bug", False)
    return FakePrinter


@pytest.fixture
def choreography(db: None) -> Iterator[Choreography]:
    with frozen_clock() as clock:
        choreography = Choreography(clock)
        yield choreography
        choreography.close()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.get_closest_marker("django_db") is None:
            item.add_marker(pytest.mark.django_db(databases="__all__"))
