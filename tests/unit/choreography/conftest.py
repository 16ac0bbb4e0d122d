"""What tests of the machinery may use: an open shop on a frozen clock."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from pytest_django.fixtures import Settings

from choreography.broker import topology
from choreography.broker.embedded.store import Store
from choreography.broker.embedded.transport import open_store
from choreography.broker.publisher import connect
from choreography.testing import FrozenClock, frozen_clock, override
from tests.shop_in_a_box import Shop
from tests.unit.choreography.authorizing import AUTHORIZE


@pytest.fixture
def frozen() -> Iterator[FrozenClock]:
    """A clock that stands still."""
    with frozen_clock() as frozen:
        yield frozen


@pytest.fixture
def embedded_broker(settings: Settings, tmp_path: Path) -> Store:
    """An embedded broker on which everything is declared."""
    url = f"embedded://{tmp_path / 'broker.sqlite3'}"
    settings.CHOREOGRAPHY = settings.CHOREOGRAPHY | {"BROKER_URL": url}
    with connect() as connection:
        topology.declare(connection)
    return open_store(url)


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
