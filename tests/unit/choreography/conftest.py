"""What tests of the machinery may use: an open shop on a frozen clock."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from choreography.testing import FrozenClock, frozen_clock, override
from tests.shop_in_a_box import Shop
from tests.unit.choreography.authorizing import AUTHORIZE


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


@pytest.fixture
def change() -> Iterator[Callable[..., None]]:
    """Change the reaction ``payments.authorize_payment`` until the test ends: ``change(function=fail)``."""
    with ExitStack() as changes:

        def change(**attributes: Any) -> None:
            changes.enter_context(override(AUTHORIZE, **attributes))

        yield change
