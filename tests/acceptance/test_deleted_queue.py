"""An operator deletes or purges a queue under the workers: they go on, and what was lost is found."""

import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, cast

import pytest
from amqp import NotFound
from kombu import Connection

from tests.launched import manage
from tests.processes import RunningShop, eventually, running_shop, worker
from tests.servers import a_corner_of_the_servers
from tests.wire import event, sender

pytestmark = [pytest.mark.processes, pytest.mark.slow, pytest.mark.rabbitmq, pytest.mark.postgresql]


@pytest.fixture
def shop(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[RunningShop]:
    with ExitStack() as stack:
        corner = stack.enter_context(a_corner_of_the_servers(request))
        # What is purged is counted in messages: one for each event.
        yield stack.enter_context(running_shop(tmp_path / "shop", EVENTS_PER_MESSAGE="1", **corner))


def test_a_worker_whose_queue_is_deleted_as_it_connects_consumes_again(shop: RunningShop) -> None:
    queue = f"{shop.environment['CHOREOGRAPHY_NAMESPACE']}shipping"
    _, _, *celery = worker("shipping")  # without "python -m"
    process = shop.run("worker-shipping", [sys.executable, "-m", "tests.deaf", queue, *celery])
    shop.started("worker-shipping")

    cancelled = event("orders.order_cancelled.v1", data={"reason": "customer_request"})
    with sender(shop) as foreigner:
        eventually(lambda: "its queue was deleted" in process.says(), otherwise=process.says)
        eventually(lambda: consumers_of(queue, shop) == 1, otherwise=process.says)
        foreigner.send_event(cancelled)
        eventually(lambda: cancelled["id"] in shop.ask("heard", service="shipping"), otherwise=process.says)
    assert process.lives


def consumers_of(queue: str, shop: RunningShop) -> int:
    with Connection(shop.environment["BROKER_URL"]) as connection:
        channel: Any = connection.default_channel
        try:
            return int(channel.queue_declare(queue, passive=True).consumer_count)
        except NotFound:
            return 0


def test_events_purged_from_a_queue_are_found_and_sent_again(shop: RunningShop) -> None:
    shop.start("relay-orders", "relay-payments", "relay-shipping", "worker-orders", "worker-payments", "beat")
    orders = [shop.place() for _ in range(5)]
    queue = f"{shop.environment['CHOREOGRAPHY_NAMESPACE']}shipping"
    with Connection(shop.environment["BROKER_URL"]) as connection:
        purged, channel = [0], cast(Any, connection.default_channel)

        def all_purged() -> bool:
            purged[0] += channel.queue_purge(queue)
            return purged[0] >= 2 * len(orders)  # each order's being placed, and its authorization

        eventually(all_purged, otherwise=lambda: shop.ask("standing"))
    shop.start("worker-shipping")

    send_again = ("choreography", "send_again", "shipping", "--after", "0")
    sent = manage(*send_again, environment=shop.environment)

    assert (sent.returncode, sent.stdout) == (0, "10 event(s) sent again to shipping\n"), sent.stderr
    shop.wait_until_all_end()
    assert {shop.ask("status", order_id=order) for order in orders} == {"completed"}
    assert shop.ask("broken_promises") == []
    assert manage(*send_again, environment=shop.environment).stdout == "0 event(s) sent again to shipping\n"
