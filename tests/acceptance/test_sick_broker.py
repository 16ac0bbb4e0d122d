"""A broker that is up and does not do its work: it blocks publishers, falls silent, refuses, has lost its queues.

In each case the events wait in the outbox, and go out by themselves when it is well again.
"""

import secrets
from collections.abc import Iterator
from contextlib import closing, contextmanager, nullcontext
from pathlib import Path

import psycopg2
import pytest

from tests.processes import SERVICES, Process, RunningShop, eventually, running_shop
from tests.proxy import Proxy
from tests.servers import RabbitMQ, own_rabbitmq
from tests.wire import sender

pytestmark = [pytest.mark.processes, pytest.mark.slow, pytest.mark.rabbitmq]

ORDERS = 5
#: Far less than it takes to wait for as many confirmations in vain, seconds.
AT_ONCE = 20


@pytest.fixture(scope="module")
def node() -> Iterator[RabbitMQ]:
    with own_rabbitmq() as node:
        yield node


@pytest.fixture
def line(node: RabbitMQ) -> Iterator[Proxy]:
    """What the relay's and the workers' connections go through."""
    with closing(Proxy(node.port)) as line:
        yield line


@pytest.fixture
def shop(node: RabbitMQ, line: Proxy, tmp_path: Path) -> Iterator[RunningShop]:
    """A shop on the node, with names of its own there."""
    name = f"t{secrets.token_hex(3)}."
    settings = {"EVENTS_PER_MESSAGE": "1"}  # what waits is counted in messages
    with running_shop(
        tmp_path / "shop", BROKER_URL=line.url(node.url), CHOREOGRAPHY_NAMESPACE=name, **settings
    ) as shop:
        yield shop


@pytest.fixture
def relay(shop: RunningShop) -> Process:
    """A relay that has published before."""
    shop.start("relay-orders")
    shop.place()
    eventually(lambda: unpublished(shop) == 0, otherwise=shop["relay-orders"].says)
    return shop["relay-orders"]


def unpublished(shop: RunningShop) -> int:
    return int(shop.ask("unpublished", service="orders"))


def waits(relay: Process) -> int:
    return relay.says().count("relay waits")


def in_inbox(shop: RunningShop, service: str) -> int:
    with sender(shop) as line:
        return line.size(service)


def all_go_out(shop: RunningShop, orders: int) -> None:
    """The outbox drains, and each of the two services that hear of new orders has them all: none was lost."""
    eventually(lambda: unpublished(shop) == 0, otherwise=shop["relay-orders"].says)
    for service in ("payments", "shipping"):
        eventually(lambda service=service: in_inbox(shop, service) >= orders)  # type: ignore[misc]


@contextmanager
def alarm(node: RabbitMQ) -> Iterator[None]:
    """The broker says that it lacks memory, and blocks publishers."""
    node.ctl("set_vm_memory_high_watermark", "0")
    try:
        yield
    finally:
        node.ctl("set_vm_memory_high_watermark", "0.4")


@contextmanager
def full(node: RabbitMQ, shop: RunningShop, service: str) -> Iterator[None]:
    """A queue of a shop that takes no more messages, once the broker has noticed: a batch may pass before."""
    namespace = shop.environment["CHOREOGRAPHY_NAMESPACE"]
    limit = '{"max-length": 1, "overflow": "reject-publish"}'
    node.ctl("set_policy", "full", f"^{namespace}{service}$", limit, "--apply-to", "queues")
    try:
        yield
    finally:
        node.ctl("clear_policy", "full")


def test_events_wait_while_the_broker_blocks_publishers(node: RabbitMQ, shop: RunningShop, relay: Process) -> None:
    with alarm(node):
        orders = [shop.place()]
        eventually(lambda: waits(relay) >= 1, otherwise=relay.says)
        orders += [shop.place() for _ in range(ORDERS)]
        eventually(lambda: waits(relay) >= 5, within=AT_ONCE, otherwise=relay.says)
        assert unpublished(shop) == len(orders)
        assert "the broker blocks publishers" in relay.says()

    all_go_out(shop, 1 + len(orders))
    assert in_inbox(shop, "payments") <= 2 + len(orders), "trying again fills no broker that lacks memory"


@pytest.mark.postgresql
def test_rows_are_not_locked_while_the_broker_blocks_publishers(
    node: RabbitMQ, line: Proxy, tmp_path: Path, postgresql_database: str
) -> None:
    url, name = line.url(node.url), f"t{secrets.token_hex(3)}."
    with running_shop(
        tmp_path / "shop", BROKER_URL=url, CHOREOGRAPHY_NAMESPACE=name, DATABASE_URL=postgresql_database
    ) as shop:
        shop.start("relay-orders")
        shop.started("relay-orders")
        with alarm(node), closing(psycopg2.connect(postgresql_database)) as connection:
            shop.place()
            relay = shop["relay-orders"]
            eventually(lambda: waits(relay) >= 3, within=AT_ONCE, otherwise=relay.says)
            with connection, connection.cursor() as cursor:
                cursor.execute("SET lock_timeout = '2s'")
                cursor.execute("SELECT 1 FROM orders_outbox WHERE published_at IS NULL FOR UPDATE")
                assert cursor.rowcount == 2  # an order, in two versions
        all_go_out(shop, 1)


def test_events_go_out_again_after_a_confirmation_that_never_came(
    line: Proxy, shop: RunningShop, relay: Process
) -> None:
    line.stall("to_client")
    orders = [shop.place() for _ in range(ORDERS)]
    eventually(lambda: waits(relay) >= 1, otherwise=relay.says)
    assert unpublished(shop) == len(orders)

    line.flow()

    all_go_out(shop, 1 + len(orders))


def test_events_wait_while_a_queue_takes_no_more(node: RabbitMQ, shop: RunningShop, relay: Process) -> None:
    orders: list[str] = []

    def is_refused() -> bool:
        orders.append(shop.place())
        return "the broker refused" in relay.says()

    with full(node, shop, "payments"):
        eventually(is_refused, otherwise=relay.says)
        assert unpublished(shop) >= 1

    all_go_out(shop, 1 + len(orders))


def test_an_event_whose_queues_were_lost_goes_out_once_they_are_there_again(
    node: RabbitMQ, shop: RunningShop, relay: Process
) -> None:
    """The broker would confirm it, and drop it."""
    for service in SERVICES:
        node.ctl("delete_queue", shop.environment["CHOREOGRAPHY_NAMESPACE"] + service)

    shop.place()

    all_go_out(shop, 1)
    assert "no queue is bound to" in relay.says()
    assert "declare the topology" in relay.says()


@pytest.mark.parametrize("sickness", ["blocked", "silent", "full", "gone"])
def test_the_relay_of_a_sick_broker_ends_when_it_is_asked_to(
    node: RabbitMQ, line: Proxy, shop: RunningShop, relay: Process, sickness: str
) -> None:
    with sick(sickness, node, line, shop):
        if sickness == "silent":  # it is asked while it waits for a confirmation
            shop.place()
        else:
            eventually(lambda: shop.place() and waits(relay) >= 1, otherwise=relay.says)

        assert relay.end(within=25) == 0

    assert unpublished(shop) >= 1


@contextmanager
def sick(sickness: str, node: RabbitMQ, line: Proxy, shop: RunningShop) -> Iterator[None]:
    with {"blocked": alarm(node), "full": full(node, shop, "payments")}.get(sickness, nullcontext()):
        if sickness == "silent":
            line.stall()
        if sickness == "gone":
            line.refuse()
            line.cut()
        yield
        line.flow()
        line.accept()


def test_a_worker_goes_on_while_the_broker_blocks_publishers(node: RabbitMQ, shop: RunningShop, relay: Process) -> None:
    """What can be done is done, what must wait waits for the ladder, and nothing is lost."""
    shop.place("tok_fails_twice")
    good = [shop.place() for _ in range(ORDERS)]
    all_go_out(shop, 2 + len(good))
    shop.start("relay-payments", "relay-shipping")
    shop.started("relay-payments", "relay-shipping")
    with alarm(node):
        shop.start("worker-payments")
        worker = shop["worker-payments"]
        eventually(lambda: "task events are dropped" in worker.says(), otherwise=worker.says)
        eventually(lambda: len(shop.ask("heard", service="payments")) == 1 + len(good), otherwise=worker.says)
        eventually(lambda: "ladder waits" in worker.says(), otherwise=worker.says)

    eventually(lambda: "task events are sent" in worker.says(), otherwise=worker.says)
    shop.start("worker-orders", "worker-shipping", "beat")
    shop.wait_until_all_end()
    assert shop.ask("broken_promises") == []
    assert shop.have_ended() == []


def test_a_worker_ends_while_the_broker_blocks_publishers(node: RabbitMQ, shop: RunningShop) -> None:
    """It would wait for the broker to hear its farewell, which does not listen."""
    shop.start("worker-payments")
    shop.started("worker-payments")
    worker = shop["worker-payments"]
    with alarm(node):
        eventually(lambda: "task events are dropped" in worker.says(), otherwise=worker.says)

        assert worker.end(within=20) == 0


def test_a_worker_connects_anew_while_the_broker_blocks_publishers(
    node: RabbitMQ, line: Proxy, shop: RunningShop, relay: Process
) -> None:
    shop.start("worker-payments")
    shop.started("worker-payments")
    worker = shop["worker-payments"]
    heard = len(eventually(lambda: shop.ask("heard", service="payments"), otherwise=worker.says))
    with alarm(node):
        eventually(lambda: "task events are dropped" in worker.says(), otherwise=worker.says)

        line.cut()

        eventually(lambda: worker.says().count("Connected to") == 2, otherwise=worker.says)
        eventually(lambda: worker.says().count("task events are dropped") == 2, otherwise=worker.says)
    shop.place()
    eventually(lambda: len(shop.ask("heard", service="payments")) > heard, otherwise=worker.says)
