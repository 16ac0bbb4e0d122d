"""While something is down the worker pauses: messages stay in their queue, and all goes on soon afterwards."""

import json
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any
from urllib.error import URLError
from urllib.parse import urlsplit

import psycopg2
import pytest

from tests.processes import SERVICES, Process, RunningShop, eventually, running_shop, worker
from tests.proxy import Proxy
from tests.servers import a_corner_of_the_servers, free_ports, own_database, own_postgresql
from tests.switched import SWITCH
from tests.wire import sender

pytestmark = [pytest.mark.processes, pytest.mark.slow]

CONCURRENCY = 2
#: What a worker may have in hand when the circuit opens: Celery prefetches four for each thread or child. The rest is
#: what it takes in exchange for the first failures, until it has asked for itself.
MOST_RETRIED = 5 * CONCURRENCY * 4

#: What waits is counted in messages: one for each event.
GATEWAY = {"PAYMENT_GATEWAY": "tests.switched.SwitchedGateway", "EVENTS_PER_MESSAGE": "1"}
RELAYS = [f"relay-{service}" for service in SERVICES]


@pytest.fixture(params=["embedded", pytest.param("real", marks=[pytest.mark.rabbitmq, pytest.mark.postgresql])])
def shop(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[RunningShop]:
    """A shop whose payment gateway has a switch."""
    with ExitStack() as stack:
        corner = {} if request.param == "embedded" else stack.enter_context(a_corner_of_the_servers(request))
        settings = {**GATEWAY, **corner, "FLOWER_UNAUTHENTICATED_API": "true"}
        yield stack.enter_context(running_shop(tmp_path / "shop", **settings))


def start(shop: RunningShop, pool: str = "threads") -> Process:
    """Start all of it. Returns the worker of payments."""
    shop.start(*RELAYS, "worker-orders", "worker-shipping", "beat")
    payments = shop.run("worker-payments", worker("payments", pool=pool, concurrency=CONCURRENCY))
    shop.started("worker-payments")
    return payments


def retried(process: Process) -> int:
    return process.says().count("delivery retried")


def all_in_broker(shop: RunningShop, messages: int) -> bool:
    """Whether all these wait for payments, in its inbox or on its ladder."""
    queues = ("payments", "payments.retry.1s", "payments.retry.5s", "payments.retry.30s")
    with sender(shop) as line:
        return sum(map(line.size, queues)) >= messages


def all_in_inbox(shop: RunningShop, messages: int) -> bool:
    with sender(shop) as line:
        return line.size("payments") >= messages


def pause_and_go_on(shop: RunningShop, payments: Process, orders: list[str]) -> Iterator[None]:
    """What is to be seen of a worker while something is down, up to the moment when it is mended, and afterwards."""
    eventually(lambda: "circuit opened" in payments.says(), otherwise=payments.says)
    eventually(lambda: all_in_broker(shop, len(orders)), otherwise=payments.says)
    tried = retried(payments)
    assert tried <= MOST_RETRIED

    orders += [shop.place() for _ in range(10)]
    eventually(lambda: all_in_inbox(shop, len(orders)), otherwise=payments.says)
    assert retried(payments) == tried, "what came meanwhile, and what came back from the ladder, stayed in the queue"
    yield
    eventually(lambda: "circuit closed" in payments.says(), otherwise=payments.says)
    eventually(lambda: shop.ask("is_quiet"), otherwise=lambda: shop.ask("standing"))
    assert {shop.ask("status", order_id=order) for order in orders} == {"completed"}
    assert shop.ask("dead_letters", service="payments") == []
    assert shop.ask("broken_promises") == []
    assert shop.have_ended() == []


@pytest.mark.rabbitmq
@pytest.mark.postgresql
@pytest.mark.parametrize("pool", ["threads", "prefork"])
def test_a_worker_pauses_while_its_database_is_down(request: pytest.FixtureRequest, tmp_path: Path, pool: str) -> None:
    with (
        own_postgresql() as server,
        own_database(server.url, "payments") as database,
        a_corner_of_the_servers(request) as corner,
        running_shop(tmp_path / "shop", **corner, EVENTS_PER_MESSAGE="1", PAYMENTS_DATABASE_URL=database) as shop,
    ):
        payments = start(shop, pool)
        shop.place()
        shop.wait_until_all_end()
        server.stop()
        steps = pause_and_go_on(shop, payments, [shop.place() for _ in range(40)])
        next(steps)

        server.start()

        assert list(steps) == []
        with closing(psycopg2.connect(database)) as connection, connection.cursor() as cursor:
            cursor.execute("SELECT max(attempts) FROM payments_inbox")
            assert cursor.fetchone() == (1,), "an outage uses up no attempt"


def test_a_worker_pauses_while_the_payment_gateway_is_down(shop: RunningShop) -> None:
    payments = start(shop)
    tasks = flower(shop)
    switch = Path(shop.environment["DATA_DIR"]) / SWITCH
    switch.touch()
    steps = pause_and_go_on(shop, payments, [shop.place() for _ in range(40)])
    next(steps)
    eventually(lambda: states(tasks, "payments.wait_for_payment_gateway") == ["RETRY"], otherwise=payments.says)

    switch.unlink()

    assert list(steps) == []
    eventually(lambda: states(tasks, "payments.wait_for_payment_gateway") == ["SUCCESS"], otherwise=payments.says)
    payments.end()  # what Flower shows next it has not heard again
    assert shop["flower"].end() == 0
    tasks = flower(shop)
    assert states(tasks, "payments.wait_for_payment_gateway") == ["SUCCESS"]


@pytest.mark.rabbitmq
@pytest.mark.postgresql
def test_a_worker_that_connects_anew_still_pauses(request: pytest.FixtureRequest, tmp_path: Path) -> None:
    """Celery consumes everything when it has lost its connection to the broker."""
    with a_corner_of_the_servers(request) as corner, ExitStack() as stack:
        line = stack.enter_context(closing(Proxy(urlsplit(corner["BROKER_URL"]).port or 5672)))
        settings = corner | GATEWAY | {"BROKER_URL": line.url(corner["BROKER_URL"])}
        shop = stack.enter_context(running_shop(tmp_path / "shop", **settings))
        payments = start(shop)
        switch = Path(shop.environment["DATA_DIR"]) / SWITCH
        switch.touch()
        orders = [shop.place() for _ in range(5)]
        eventually(lambda: "circuit opened" in payments.says(), otherwise=payments.says)
        connected = payments.says().count("Connected to")

        line.cut()

        eventually(lambda: payments.says().count("Connected to") > connected, otherwise=payments.says)
        steps = pause_and_go_on(shop, payments, orders)
        next(steps)
        switch.unlink()
        assert list(steps) == []


def test_an_unlucky_order_does_not_hold_up_the_others(shop: RunningShop) -> None:
    """The provider answers when it is asked: something is wrong with this card's bank."""
    payments = start(shop)
    unlucky = shop.place("tok_down")
    eventually(lambda: retried(payments) >= 1, otherwise=payments.says)

    orders = [shop.place() for _ in range(5)]

    eventually(lambda: {shop.ask("status", order_id=order) for order in orders} == {"completed"})
    assert shop.ask("status", order_id=unlucky) == "placed"
    assert "circuit opened" not in payments.says()


def test_a_worker_that_pauses_ends_when_it_is_asked_to(shop: RunningShop) -> None:
    payments = start(shop)
    (Path(shop.environment["DATA_DIR"]) / SWITCH).touch()
    shop.place()
    eventually(lambda: "circuit opened" in payments.says(), otherwise=payments.says)

    assert payments.end(within=10) == 0


def test_ticks_that_nobody_took_in_time_are_no_work_for_a_person(shop: RunningShop) -> None:
    """Else an outage would park a dead letter for every one of them."""
    shop.start("beat")
    with sender(shop) as line:
        eventually(lambda: line.size("payments.dead") >= 1, otherwise=shop["beat"].says)
        shop.start("worker-payments")
        shop.started("worker-payments")
        eventually(lambda: line.size("payments.dead") == 0, otherwise=shop["worker-payments"].says)
    shop["worker-payments"].end()

    assert shop.ask("dead_letters", service="payments") == []


def flower(shop: RunningShop) -> str:
    """Start Flower. Returns where its API lists tasks."""
    (port,) = free_ports(1)
    command = [sys.executable, "-m", "celery", "-A", "shop", "flower", "--address=127.0.0.1", f"--port={port}"]
    shop.run("flower", [*command, "--persistent=true", f"--db={shop.environment['DATA_DIR']}/flower"])
    url = f"http://127.0.0.1:{port}/api/"
    eventually(lambda: asked(url + "workers"), otherwise=shop["flower"].says)
    return url + "tasks"


def states(tasks: str, name: str) -> list[str]:
    return [seen["state"] for seen in asked(tasks).values() if seen["name"] == name]


def asked(url: str) -> dict[str, Any]:
    try:
        with urllib.request.urlopen(url, timeout=10) as response:
            found: dict[str, Any] = json.load(response)
            return found
    except URLError:
        return {}  # not up yet
