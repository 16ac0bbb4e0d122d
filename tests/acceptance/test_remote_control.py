"""Celery's remote control, as Flower's buttons use it: no command loses an event or silently stops a service."""

import sys
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from choreography.broker.embedded import register
from tests.processes import RunningShop, completed, eventually, running_shop, worker
from tests.servers import a_corner_of_the_servers
from tests.wire import Sender, Wire, event, sender, text

pytestmark = [pytest.mark.processes, pytest.mark.slow, pytest.mark.rabbitmq, pytest.mark.postgresql]

THREADS = pytest.mark.parametrize("counter", ["threads"], indirect=True)
PREFORK = pytest.mark.parametrize("counter", ["prefork"], indirect=True)


class Counter:
    """Where events arrive: a shop with one worker, for payments, that people control."""

    def __init__(self, shop: RunningShop, foreigner: Sender, pool: str) -> None:
        self.shop, self.sender, self.pool = shop, foreigner, pool

    def control(self, *command: str) -> str:
        """``celery control …``, as Flower sends it. Returns what was answered."""
        control = [sys.executable, "-m", "celery", "-A", "shop", "control", "--timeout", "1"]
        result = completed([*control, *command], self.shop.environment)
        return result.stdout + result.stderr

    def send(self, token: str = "tok_approved") -> dict[str, Any]:
        document = event(data={"payment_token": token, "total": 1999, "currency": "EUR"})
        self.sender.send_event(document)
        return document

    def has_heard(self, document: dict[str, Any]) -> bool:
        return document["id"] in self.shop.ask("heard", service="payments")

    def hears(self, document: dict[str, Any]) -> None:
        eventually(lambda: self.has_heard(document), otherwise=self.says)

    def dead_letter_of(self, document: dict[str, Any]) -> dict[str, Any]:
        found: dict[str, Any] = eventually(
            lambda: next((row for row in self.dead_letters() if row["event_id"] == document["id"]), None),
            otherwise=self.says,
        )
        return found

    def dead_letters(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.shop.ask("dead_letters", service="payments")
        return found

    def says(self) -> str:
        return self.shop["worker-payments"].says()[-3000:]

    def retried(self, document: dict[str, Any]) -> None:
        eventually(lambda: f"event_id={document['id']}" in self.says_of("delivery retried"), otherwise=self.says)

    def says_of(self, what: str) -> str:
        return "\n".join(line for line in self.shop["worker-payments"].says().splitlines() if what in line)


@pytest.fixture(scope="module")
def counter(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Counter]:
    register()
    with ExitStack() as stack:
        corner = stack.enter_context(a_corner_of_the_servers(request))
        shop = stack.enter_context(
            running_shop(tmp_path_factory.mktemp(request.param), SANDBOX_SLOW_SECONDS="3", **corner)
        )
        foreigner = stack.enter_context(sender(shop))
        shop.run("worker-payments", worker("payments", pool=request.param, concurrency=2))
        shop.started("worker-payments")
        yield Counter(shop, foreigner, request.param)


@pytest.fixture(autouse=True)
def the_worker_goes_on(request: pytest.FixtureRequest, counter: Counter) -> Iterator[None]:
    yield
    counter.hears(counter.send())
    assert counter.shop["worker-payments"].lives


def task_id_of(document: dict[str, Any], namespace: str) -> str:
    """The id under which Flower shows a delivery."""
    from uuid import NAMESPACE_URL, uuid5

    return str(uuid5(NAMESPACE_URL, f"{namespace}payments:{document['id']}"))


@THREADS
def test_a_retry_that_is_revoked_is_parked(counter: Counter) -> None:
    document = counter.send("tok_down")
    counter.retried(document)

    counter.control("revoke", task_id_of(document, counter.shop.environment["CHOREOGRAPHY_NAMESPACE"]))

    dead_letter = counter.dead_letter_of(document)
    assert dead_letter["message"].startswith("revoked by remote control")


@THREADS
def test_a_rate_limit_stops_nothing(counter: Counter) -> None:
    counter.control("rate_limit", "payments.authorize_payment", "1/h")

    documents = [counter.send() for _ in range(5)]

    for document in documents:
        counter.hears(document)
    assert "has no rate limit" in counter.control("rate_limit", "payments.authorize_payment", "1/h")


@PREFORK
def test_a_time_limit_loses_nothing(counter: Counter) -> None:
    counter.control("time_limit", "payments.authorize_payment", "1")
    document = counter.send("tok_slow")

    eventually(
        lambda: counter.has_heard(document) or any(row["event_id"] == document["id"] for row in counter.dead_letters()),
        otherwise=counter.says,
    )
    counter.control("time_limit", "payments.authorize_payment", "0")


@PREFORK
@pytest.mark.parametrize(
    "commands",
    [
        ["pool_grow 1", "pool_shrink 1"],
        ["pool_restart"],
        ["autoscale 3 1"],
        ["cancel_consumer payments", "add_consumer payments"],
        ["disable_events", "enable_events"],
        ["heartbeat"],
    ],
    ids=lambda commands: " ".join(commands),
)
def test_a_command_stops_nothing(counter: Counter, commands: list[str]) -> None:
    namespace = counter.shop.environment["CHOREOGRAPHY_NAMESPACE"]
    for command in commands:
        counter.control(*command.replace(" payments", f" {namespace}payments").split())

    for document in [counter.send() for _ in range(3)]:
        counter.hears(document)


@THREADS
def test_a_message_of_a_queue_that_somebody_added_ends_no_worker(counter: Counter) -> None:
    queue = f"{counter.shop.environment['CHOREOGRAPHY_NAMESPACE']}somebodys"
    counter.control("add_consumer", queue)
    try:
        counter.sender.send(Wire(text(event()), exchange="somebodys", routing_key=queue))
        counter.hears(counter.send())
    finally:
        counter.control("cancel_consumer", queue)
        counter.sender.delete_queue("somebodys")
        counter.sender.delete_exchange("somebodys")


@THREADS
def test_an_order_that_is_handled_while_the_worker_is_shut_down_is_not_lost(counter: Counter) -> None:
    document = counter.send("tok_slow")
    eventually(lambda: counter.shop.ask("gateway_calls", order_id=document["subject"]), otherwise=counter.says)

    counter.control("shutdown")

    eventually(lambda: not counter.shop["worker-payments"].lives, otherwise=counter.says)
    assert counter.shop["worker-payments"].exit_code == 0
    counter.shop.run("worker-payments", worker("payments", pool=counter.pool, concurrency=2))
    counter.shop.started("worker-payments")
    counter.hears(document)
