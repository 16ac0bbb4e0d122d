"""What every scenario starts from: an open shop, a provider and a carrier."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from pytest_django.fixtures import Settings

from choreography.core import clock
from choreography.testing import FrozenClock
from tests.flows import providers
from tests.shop_in_a_box import WITHOUT_JOURNAL, Shop


@pytest.fixture(autouse=True)
def without_journal(settings: Settings) -> None:
    """The journal has tests of its own, in ``tests/journal``."""
    settings.CHOREOGRAPHY = settings.CHOREOGRAPHY | WITHOUT_JOURNAL


@pytest.fixture
def frozen() -> Iterator[FrozenClock]:
    """A clock that stands still."""
    frozen = FrozenClock()
    with clock.use_clock(frozen):
        yield frozen


@pytest.fixture
def shop(
    db: None,
    settings: Settings,
    frozen: FrozenClock,
    gateway: type[providers.Gateway],
    carrier: type[providers.Carrier],
) -> Iterator[Shop]:
    """An open shop."""
    shop = Shop(frozen)
    yield shop
    shop.close()


@pytest.fixture
def gateway(settings: Settings, monkeypatch: pytest.MonkeyPatch, data_dir: Path) -> type[providers.Gateway]:
    """The payment provider, in whose calls a test can meddle."""
    settings.PAYMENT_GATEWAY = f"{providers.__name__}.Gateway"
    settings.SANDBOX_SLOW_SECONDS = 0.0
    monkeypatch.setattr(providers.Gateway, "down", False, raising=False)
    monkeypatch.setattr(providers.Gateway, "meanwhile", {}, raising=False)
    return providers.Gateway


@pytest.fixture
def carrier(settings: Settings, monkeypatch: pytest.MonkeyPatch, data_dir: Path) -> type[providers.Carrier]:
    """The carrier, in whose calls a test can meddle."""
    settings.CARRIER = f"{providers.__name__}.Carrier"
    monkeypatch.setattr(providers.Carrier, "down", False, raising=False)
    monkeypatch.setattr(providers.Carrier, "loses_answers", 0, raising=False)
    monkeypatch.setattr(providers.Carrier, "meanwhile", {}, raising=False)
    return providers.Carrier


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if "tests/flows" in str(item.path):
            item.add_marker(pytest.mark.django_db(databases="__all__"))
