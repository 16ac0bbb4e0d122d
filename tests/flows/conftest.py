"""What every journey starts from: an open shop."""

from collections.abc import Iterator

import pytest

from choreography import world
from choreography.testing import FrozenWorld
from tests.shop_in_a_box import Shop


@pytest.fixture
def frozen() -> Iterator[FrozenWorld]:
    """A world whose time stands still."""
    frozen = FrozenWorld()
    with world.replaced(frozen):
        yield frozen


@pytest.fixture
def shop(db: None, frozen: FrozenWorld) -> Iterator[Shop]:
    """An open shop."""
    shop = Shop(frozen)
    yield shop
    shop.close()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if "tests/flows" in str(item.path):
            item.add_marker(pytest.mark.django_db(databases="__all__"))
