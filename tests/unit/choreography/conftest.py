"""What tests of the machinery may use: an open shop on a frozen clock."""

from collections.abc import Iterator

import pytest

from choreography import world
from choreography.testing import FrozenWorld
from tests.shop_in_a_box import Shop


@pytest.fixture
def shop(db: None) -> Iterator[Shop]:
    """All services in one process, around a broker in memory."""
    frozen = FrozenWorld()
    with world.replaced(frozen):
        shop = Shop(frozen)
        yield shop
        shop.close()
