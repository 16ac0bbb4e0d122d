"""No acknowledged work is lost, and nothing happens twice, when processes are killed with SIGKILL at any moment."""

import random
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from tests.processes import RunningShop, eventually, running_shop
from tests.servers import a_corner_of_the_servers

pytestmark = [pytest.mark.processes, pytest.mark.slow]

#: Far longer than the test: whoever asks the gateway with tok_slow is killed while asking.
HANGING = {"SANDBOX_SLOW_SECONDS": "600"}
PROCESSES = (
    *("relay-orders", "relay-payments", "relay-shipping"),
    *("worker-orders", "worker-payments", "worker-shipping"),
    "beat",
)
ENDS = {
    "tok_approved": "completed",
    "tok_fails_twice": "completed",
    "tok_timeout": "completed",
    "tok_declined_funds": "cancelled",
}


@pytest.fixture(
    scope="module",
    params=["embedded", pytest.param("real", marks=[pytest.mark.rabbitmq, pytest.mark.postgresql])],
)
def shop(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningShop]:
    folder = tmp_path_factory.mktemp(request.param)
    with ExitStack() as stack:
        corner = {} if request.param == "embedded" else stack.enter_context(a_corner_of_the_servers(request))
        shop = stack.enter_context(running_shop(folder, **HANGING, **corner))
        shop.start(*PROCESSES)
        yield shop


@pytest.fixture(autouse=True)
def nothing_was_lost(shop: RunningShop) -> Iterator[None]:
    yield
    shop.wait_until_all_end()
    assert shop.ask("broken_promises") == []
    assert shop.have_ended() == []


def test_a_worker_killed_while_it_asks_the_gateway_charges_once(shop: RunningShop) -> None:
    order = shop.place("tok_slow")
    eventually(lambda: shop.ask("gateway_calls", order_id=order) == ["authorized"])

    shop["worker-payments"].kill()
    assert shop.ask("announced", service="payments", subject=order) == []
    shop.start("worker-payments")

    eventually(lambda: shop.ask("status", order_id=order) == "completed", otherwise=lambda: shop.ask("standing"))
    assert shop.ask("gateway_calls", order_id=order) == ["authorized", "captured"]


def test_a_relay_killed_with_events_in_its_outbox_publishes_them_when_it_is_back(shop: RunningShop) -> None:
    eventually(lambda: shop.ask("unpublished", service="orders") == 0)
    shop["relay-orders"].kill()
    order = shop.place()
    assert shop.ask("unpublished", service="orders") == 1

    shop.start("relay-orders")

    eventually(lambda: shop.ask("status", order_id=order) == "completed", otherwise=lambda: shop.ask("standing"))


def test_every_process_may_be_killed_while_orders_are_placed(shop: RunningShop) -> None:
    orders = {}
    victims = random.sample(PROCESSES, len(PROCESSES))
    for number in range(20):
        token = random.choice(list(ENDS))
        orders[shop.place(token)] = token
        if number % 2 and victims:
            victim = victims.pop()
            shop[victim].kill()
            shop.start(victim)
    assert not victims

    shop.wait_until_all_end()

    assert {order: shop.ask("status", order_id=order) for order in orders} == {
        order: ENDS[token] for order, token in orders.items()
    }
