"""What tests of the journal start from: a shop with its journal, on a frozen clock."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from django.conf import settings as project
from pytest_django.fixtures import Settings

from choreography.testing import FrozenClock, frozen_clock
from tests.flows import providers
from tests.shop_in_a_box import Shop


@pytest.fixture
def frozen() -> Iterator[FrozenClock]:
    """A clock that stands still."""
    with frozen_clock() as frozen:
        yield frozen


@pytest.fixture
def shop(db: None, settings: Settings, frozen: FrozenClock, gateway: type[providers.Gateway]) -> Iterator[Shop]:
    """An open shop that keeps a journal."""
    shop = Shop(frozen, project.ALL_SERVICES)
    yield shop
    shop.close()


@pytest.fixture
def gateway(settings: Settings, monkeypatch: pytest.MonkeyPatch, data_dir: Path) -> type[providers.Gateway]:
    """The payment provider, in whose calls a test can meddle."""
    settings.PAYMENT_GATEWAY = f"{providers.__name__}.Gateway"
    settings.CARRIER = f"{providers.__name__}.Carrier"
    settings.SANDBOX_SLOW_SECONDS = 0.0
    for provider in (providers.Gateway, providers.Carrier):
        monkeypatch.setattr(provider, "down", False, raising=False)
        monkeypatch.setattr(provider, "meanwhile", {}, raising=False)
    monkeypatch.setattr(providers.Carrier, "loses_answers", 0, raising=False)
    return providers.Gateway


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if "tests/journal" in str(item.path):
            item.add_marker(pytest.mark.django_db(databases="__all__"))
