"""A flood of events that must wait, or that nobody can read, does not keep what comes behind it from being handled."""

import uuid
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.processes import RunningShop, eventually, running_shop, worker
from tests.servers import a_corner_of_the_servers
from tests.wire import Wire, event, sender, text

pytestmark = [pytest.mark.processes, pytest.mark.slow, pytest.mark.rabbitmq, pytest.mark.postgresql]

#: Far more than a worker takes at a time.
FLOOD = 3000


@pytest.fixture
def shop(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[RunningShop]:
    with ExitStack() as stack:
        corner = stack.enter_context(a_corner_of_the_servers(request))
        shop = stack.enter_context(running_shop(tmp_path / "shop", LOG_LEVEL="WARNING", **corner))
        shop.run("worker-shipping", worker("shipping"))
        shop.started("worker-shipping")
        yield shop


def waits() -> Wire:
    """The payment of an order that shipping has not heard of."""
    return Wire(text(event("payments.payment_authorized.v1", data={})), exchange="payments.payment_authorized.v1")


def unusable() -> Wire:
    return Wire(f"rubbish {uuid.uuid4()}".encode(), exchange="payments.payment_authorized.v1")


@pytest.mark.parametrize("flood", [waits, unusable])
def test_what_comes_behind_a_flood_is_handled_before_long(shop: RunningShop, flood: Any) -> None:
    good = event("orders.order_cancelled.v1", data={"reason": "customer_request"})
    with sender(shop) as foreigner:
        for _ in range(FLOOD):
            foreigner.send(flood())
        foreigner.send_event(good)
        eventually(
            lambda: good["id"] in shop.ask("heard", service="shipping"),
            within=60,
            otherwise=shop["worker-shipping"].says,
        )
    if flood is unusable:
        eventually(
            lambda: len(shop.ask("dead_letters", service="shipping")) == FLOOD, otherwise=shop["worker-shipping"].says
        )
