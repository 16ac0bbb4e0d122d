"""What tests of the machinery may use: an open shop on a frozen clock."""

from collections.abc import Iterator

import pytest

from choreography.testing import FrozenClock, frozen_clock
from tests.shop_in_a_box import Shop


@pytest.fixture
def frozen() -> Iterator[FrozenClock]:
    """A clock that stands still."""
    with frozen_clock() as frozen:
        yield frozen


@pytest.fixture
def shop(db: None, frozen: FrozenClock) -> Iterator[Shop]:
    """All services in one process, around a broker in memory."""
    shop = Shop(frozen)
    yield shop
    shop.close()
