"""What waits together is handled together by real workers, and whatever goes wrong, each event counts once."""

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from typing import Any

import psycopg2
import pytest
from celery import Celery

from payments.gateway import Authorized, Declined
from payments.sandbox import SandboxGateway
from tests.processes import RunningShop, eventually, running_shop, worker
from tests.servers import a_corner_of_the_servers
from tests.wire import event, sender

pytestmark = [pytest.mark.processes, pytest.mark.slow, pytest.mark.rabbitmq, pytest.mark.postgresql]

DEADLY = "tok_deadly"
POOLS = pytest.mark.parametrize("pool", ["threads", "prefork"])


class DeadlyGateway(SandboxGateway):
    """The sandbox, but one token kills the process that asks."""

    def authorize(self, *, key: str, token: str, amount: int, currency: str) -> Authorized | Declined:
        if token == DEADLY:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().authorize(key=key, token=token, amount=amount, currency=currency)


@pytest.fixture
def shop(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningShop]:
    """A shop on RabbitMQ and PostgreSQL in which nothing runs yet."""
    with ExitStack() as stack:
        corner = stack.enter_context(a_corner_of_the_servers(request))
        gateway = f"{DeadlyGateway.__module__}.{DeadlyGateway.__qualname__}"
        yield stack.enter_context(running_shop(tmp_path_factory.mktemp("shop"), PAYMENT_GATEWAY=gateway, **corner))


def placed(token: str = "tok_approved", **changes: Any) -> dict[str, Any]:
    return event(**{"data": {"payment_token": token, "total": 1999, "currency": "EUR"}} | changes)


def dispatched(order: dict[str, Any]) -> dict[str, Any]:
    return event("shipping.shipment_dispatched.v1", subject=order["subject"], data={"parcel": "a parcel"})


def send(shop: RunningShop, *events: dict[str, Any]) -> None:
    with sender(shop) as foreigner:
        for each in events:
            foreigner.send_event(each)


def work(shop: RunningShop, pool: str = "threads", **environment: str) -> None:
    shop.run("worker-payments", worker("payments", pool=pool, concurrency=2), **environment)


def wait_until_done(shop: RunningShop, *events: dict[str, Any]) -> None:
    wanted = {each["id"] for each in events}
    eventually(lambda: wanted <= heard(shop), within=120, otherwise=lambda: shop.ask("standing"))


def heard(shop: RunningShop) -> set[str]:
    return set(shop.ask("heard", service="payments"))


def rows(shop: RunningShop, query: str) -> list[Any]:
    """The first column of what a query finds."""
    with closing(psycopg2.connect(shop.environment["DATABASE_URL"])) as line, line.cursor() as cursor:
        cursor.execute(query)
        return [first for (first, *_) in cursor.fetchall()]


def each_counted_once(shop: RunningShop, *events: dict[str, Any]) -> None:
    """One entry in the inbox, one in the ledger, one announcement, one call at the gateway."""
    ids, subjects = (sorted(each[name] for each in events) for name in ("id", "subject"))
    assert sorted(rows(shop, "SELECT event_id::text FROM payments_inbox")) == ids
    assert sorted(rows(shop, "SELECT payment_id::text FROM payments_entry")) == subjects
    assert sorted(rows(shop, "SELECT subject::text FROM payments_outbox")) == subjects
    assert sorted(rows(shop, "SELECT caused_by::text FROM payments_outbox")) == ids
    assert [shop.ask("gateway_calls", order_id=subject) for subject in subjects] == [["authorized"]] * len(subjects)


@contextmanager
def watching(shop: RunningShop, what: str = "task-received", field: str = "args") -> Iterator[list[str]]:
    """A field of each of these events of Celery's: what people see of tasks, as Flower is told."""
    namespace = shop.environment["CHOREOGRAPHY_NAMESPACE"]
    app: Any = Celery("watching", broker=shop.environment["BROKER_URL"], set_as_current=False)
    app.conf.update(event_exchange=f"{namespace}celeryev", event_queue_prefix=f"{namespace}celeryev")
    seen: list[str] = []
    ready = threading.Event()
    with app.connection() as connection:
        receiver = app.events.Receiver(connection, handlers={what: lambda it: seen.append(it[field])})
        receiver.on_consume_ready = lambda *args, **kwargs: ready.set()
        watcher = threading.Thread(target=lambda: receiver.capture(wakeup=False))
        watcher.start()
        try:
            assert ready.wait(30)
            yield seen
        finally:
            receiver.should_stop = True
            watcher.join(30)


@POOLS
def test_what_has_piled_up_is_handled_in_far_fewer_transactions_than_there_are_events(
    shop: RunningShop, pool: str
) -> None:
    events = [placed() for _ in range(300)]
    send(shop, *events)

    work(shop, pool)

    wait_until_done(shop, *events)
    each_counted_once(shop, *events)
    assert shop.ask("dead_letters", service="payments") == []
    transactions = set(rows(shop, "SELECT xmin::text FROM payments_inbox"))
    assert len(transactions) <= 30


def test_people_see_how_many_events_a_task_holds_and_one_that_comes_alone_is_alone(shop: RunningShop) -> None:
    events = [placed() for _ in range(60)]
    send(shop, *events)
    with watching(shop) as seen:
        work(shop)
        wait_until_done(shop, *events)
        # Those that there was no time to ask for are told again, with the batch that takes them.
        eventually(lambda: sum(map(number_told, seen)) >= 60, otherwise=lambda: seen)
        assert len(seen) < 20
        assert any(told.startswith(f"{number_told(told)} events: ") for told in seen)

        for _ in range(5):
            send(shop, alone := placed())
            wait_until_done(shop, alone)
            told = f"orders.order_placed.v2 {alone['id']} of {alone['subject']}"
            eventually(lambda: told in seen, otherwise=lambda: seen)  # noqa: B023
            assert seen.count(told) == 1


@POOLS
def test_nobody_waits_for_a_reaction_that_is_stuck(shop: RunningShop, pool: str) -> None:
    """It is quick as a rule, and takes turns with others; now somebody holds the row it wants."""
    work(shop, pool)
    *before, order, other = (placed() for _ in range(7))
    for each in (*before, order):
        send(shop, each)
        wait_until_done(shop, each)
    for each in before:
        send(shop, captured := dispatched(each))
        wait_until_done(shop, captured)
    stuck = dispatched(order)
    with closing(psycopg2.connect(shop.environment["DATABASE_URL"])) as line, line.cursor() as cursor:
        cursor.execute("SELECT 1 FROM payments_payment WHERE order_id = %s FOR UPDATE", (order["subject"],))
        send(shop, stuck)
        eventually(lambda: rows(shop, "SELECT pid FROM pg_locks WHERE NOT granted AND locktype = 'transactionid'"))

        send(shop, other)

        wait_until_done(shop, other)
        assert stuck["id"] not in heard(shop)
    wait_until_done(shop, stuck)


@POOLS
def test_a_worker_that_ends_has_told_people_what_it_did_last(shop: RunningShop, pool: str) -> None:
    """It tells them now and then, so something is left to tell."""
    work(shop, pool)
    with watching(shop, "task-succeeded", "result") as seen:
        for count in range(1, 4):
            send(shop, last := placed())
            wait_until_done(shop, last)
            shop.end("worker-payments")
            eventually(lambda: seen == ["'done'"] * count, otherwise=lambda: seen)  # noqa: B023
            work(shop, pool)


def number_told(about: str) -> int:
    first, second, *_ = about.split()
    return int(first) if second == "events:" else 1


@POOLS
def test_one_that_is_poison_costs_the_others_nothing(shop: RunningShop, pool: str) -> None:
    """One can't be read, and one breaks the database's rules in the middle of the transaction."""
    first = placed()
    send(shop, first)
    work(shop, pool)
    wait_until_done(shop, first)
    shop.end("worker-payments")
    authorizes_too_much = placed(subject=first["subject"])
    unreadable = placed(data={"payment_token": "tok_approved", "total": "a lot", "currency": "EUR"})
    others = [placed() for _ in range(50)]
    send(shop, *others[:20], unreadable, authorizes_too_much, *others[20:])

    work(shop, pool)

    wait_until_done(shop, *others)
    eventually(lambda: shop.ask("dead_letters", service="payments"), otherwise=lambda: shop.ask("standing"))
    eventually(lambda: rows(shop, "SELECT key FROM payments_retry"), otherwise=lambda: shop.ask("standing"))
    assert heard(shop) == {each["id"] for each in (first, *others)}
    assert set(rows(shop, "SELECT attempts FROM payments_inbox")) == {1}
    assert rows(shop, "SELECT event_id::text FROM payments_deadletter") == [unreadable["id"]]
    assert rows(shop, "SELECT attempts FROM payments_deadletter") == [1]
    (poison,) = rows(shop, "SELECT convert_from(body, 'UTF8')::jsonb ->> 'id' FROM payments_retry")
    assert poison == authorizes_too_much["id"]
    assert len(rows(shop, "SELECT position FROM payments_outbox")) == 51


@POOLS
def test_a_worker_killed_in_the_middle_of_a_batch_loses_and_doubles_nothing(shop: RunningShop, pool: str) -> None:
    events = [placed() for _ in range(300)]
    send(shop, *events)
    for done in (1, 100):
        work(shop, pool, SANDBOX_LATENCY_SECONDS="0.005")
        eventually(lambda: len(heard(shop)) >= done, otherwise=shop["worker-payments"].says)  # noqa: B023
        shop["worker-payments"].kill()
    assert len(heard(shop)) < len(events), "it was over before it was killed"

    work(shop, pool)

    wait_until_done(shop, *events)
    each_counted_once(shop, *events)
    assert shop.ask("dead_letters", service="payments") == []


def test_when_a_child_of_the_pool_dies_of_one_event_the_others_of_its_batch_are_done(shop: RunningShop) -> None:
    """Only the one that kills comes again, a few times; the others have not used an attempt."""
    deadly, others = placed(DEADLY), [placed() for _ in range(50)]
    send(shop, *others[:25], deadly, *others[25:])

    work(shop, "prefork")

    wait_until_done(shop, *others)
    each_counted_once(shop, *others)
    assert set(rows(shop, "SELECT attempts FROM payments_inbox")) == {1}
    eventually(lambda: shop.ask("dead_letters", service="payments"), otherwise=shop["worker-payments"].says)
    assert rows(shop, "SELECT event_id::text FROM payments_deadletter") == [deadly["id"]]
    assert rows(shop, "SELECT key FROM payments_retry") == []
    assert shop["worker-payments"].says().count("exited with 'signal 9 (SIGKILL)'") <= 5
