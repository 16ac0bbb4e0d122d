"""What only PostgreSQL does: locks that are skipped, notifications, and a wait for another's commit.

Not collected by itself: ``test_on_postgresql`` runs it with a database at hand.
"""

import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any, TypeVar
from unittest.mock import Mock
from uuid import uuid4

import pytest
from django.db import close_old_connections, connection, connections, transaction
from pytest_django.fixtures import Settings

from choreography.broker.publisher import Outgoing
from choreography.core import clock
from choreography.dead_letters import redrives
from choreography.dead_letters.actions import By, NotParked, send_again
from choreography.dead_letters.dry_runs import dry_run
from choreography.events.messages import CONTENT_TYPE, events_in, is_batched
from choreography.inbox.deliveries import Delivery, Done, Duplicate, Outcome, RetryLater
from choreography.inbox.handler import handle, handle_one
from choreography.outbox import relay
from choreography.outbox.announcing import announce, transaction_of
from choreography.storage import bulk, retention
from choreography.storage.tables import ServiceTables
from orders.events import OrderCancelled
from orders.models import Inbox as OrdersInbox
from orders.models import Outbox as OrdersOutbox
from payments import models as payments_models
from payments.models import Outbox
from payments.sandbox import SandboxGateway
from shipping import services as shipping
from shipping.models import DeadLetter, DeadLetterAction, Inbox, Shipment
from shipping.models import Outbox as ShippingOutbox
from tests.processes import SERVICES, eventually
from tests.wire import event, text

pytestmark = pytest.mark.django_db(transaction=True, databases="__all__")

#: Seconds after which something that should happen at once counts as hanging.
HANGING = 20.0
#: Rows in a table that is large beside what one batch of a purge looks at.
MANY = 30_000
Found = TypeVar("Found")


@pytest.fixture(autouse=True)
def on_postgresql() -> None:
    assert connection.vendor == "postgresql"


@pytest.fixture
def elsewhere() -> Iterator[Callable[[Callable[[], Found]], Found]]:
    """Runs something in another thread, with connections of its own, and waits for it."""
    with ThreadPoolExecutor(1) as pool:
        yield lambda work: pool.submit(_and_hang_up, work).result(HANGING)


def _and_hang_up(work: Callable[[], Found]) -> Found:
    try:
        return work()
    finally:
        connections.close_all()


class Recorder:
    """A publisher that notes what it is given, and may do something meanwhile."""

    def __init__(self, meanwhile: Callable[[], object] = lambda: None) -> None:
        self.bodies: list[bytes] = []
        self._meanwhile = meanwhile

    def publish(self, messages: Sequence[Outgoing]) -> None:
        for message in messages:
            self.bodies += events_in(message.body) if is_batched(message.content_type) else [message.body]
        self._meanwhile()

    def close(self) -> None:
        """Nothing is open."""


def announce_one() -> None:
    with transaction_of("orders"):
        announce(OrderCancelled(reason="customer_request"), subject=uuid4())


def test_two_relays_publish_each_event_once(elsewhere: Callable[[Callable[[], int]], int]) -> None:
    for _ in range(4):
        announce_one()
    second = Recorder()
    first = Recorder(meanwhile=lambda: elsewhere(lambda: relay.publish_waiting("orders", second)))

    assert relay.publish_waiting("orders", first, limit=2) == 2

    assert len(first.bodies) == len(second.bodies) == 2
    assert len({*first.bodies, *second.bodies}) == 4
    assert not OrdersOutbox.objects.filter(published_at=None).exists()


def test_a_relay_does_not_wait_for_the_disk_to_mark_what_it_has_published() -> None:
    announce_one()
    seen: list[str] = []

    relay.publish_waiting("orders", Recorder(meanwhile=lambda: seen.append(_synchronous_commit())))

    assert (seen, _synchronous_commit()) == (["off"], "on")


def _synchronous_commit() -> str:
    with connections[ServiceTables("orders").alias].cursor() as cursor:
        cursor.execute("SHOW synchronous_commit")
        return str(cursor.fetchone()[0])


def test_two_relays_that_hurry_publish_each_event_once() -> None:
    for _ in range(60):
        announce_one()
    recorders, both = [Recorder(), Recorder()], threading.Barrier(2)

    def hurry(recorder: Recorder) -> int:
        both.wait(HANGING)
        return sum(iter(lambda: relay.publish_waiting("orders", recorder, limit=3), 0))

    with ThreadPoolExecutor(2) as pool:
        moved = [pool.submit(_and_hang_up, partial(hurry, recorder)) for recorder in recorders]
        assert sum(each.result(HANGING) for each in moved) == 60

    bodies = [body for recorder in recorders for body in recorder.bodies]
    assert len(bodies) == len(set(bodies)) == 60
    assert not OrdersOutbox.objects.filter(published_at=None).exists()


@pytest.mark.parametrize("due", [0, 1500], ids="{} rows are due".format)
def test_purging_looks_at_a_few_rows_however_many_there_are(due: int) -> None:
    """What the table's statistics count as read: with each batch as much again, and nothing for the rest."""
    put_into(OrdersOutbox, "published_at", due)
    put_into(OrdersInbox, "handled_at", due)
    with transaction.atomic(using="orders"):
        before = rows_read("orders_outbox", "orders_inbox")
        assert retention.purge("orders") == 2 * due
        read = rows_read("orders_outbox", "orders_inbox") - before

    batches = due // 1000 + 1 + bool(due)
    assert read <= 2 * 2 * 1000 * batches < MANY / 2


def put_into(table: Any, done_at: str, due: int) -> None:
    """Rows in the order of their age, the first of them old enough to go."""
    kinds = {
        OrdersOutbox: "(event_id, subject, event_type, sequence, body, refusal, announced_at, published_at)"
        " SELECT gen_random_uuid(), gen_random_uuid(), 't', 1, repeat('x', 500), '', now(),",
        OrdersInbox: "(event_id, subject, event_type, reaction, attempts, handled_at)"
        " SELECT gen_random_uuid(), gen_random_uuid(), 't', 'r', 1,",
    }
    name = table._meta.db_table
    with connections["orders"].cursor() as cursor:
        cursor.execute(
            f"INSERT INTO {name} {kinds[table]} CASE WHEN n <= %s THEN now() - interval '9999 days' ELSE now() END"
            " FROM generate_series(1, %s) n ORDER BY n",
            [due, MANY],
        )
        cursor.execute(f"ANALYZE {name}")


def rows_read(*tables: str) -> int:
    """Rows of these tables that this transaction has read so far, by looking through them or by an index."""
    with connections["orders"].cursor() as cursor:
        cursor.execute(
            "SELECT sum(coalesce(seq_tup_read, 0) + coalesce(idx_tup_fetch, 0)) FROM pg_stat_xact_user_tables"
            " WHERE relname = ANY(%s)",
            [list(tables)],
        )
        return int(cursor.fetchone()[0])


def test_outbox_and_inbox_are_vacuumed_in_small_steps() -> None:
    with connections["orders"].cursor() as cursor:
        cursor.execute("SELECT relname, reloptions FROM pg_class WHERE relname IN ('orders_outbox', 'orders_inbox')")
        options = dict(cursor.fetchall())
    assert len(options) == 2
    assert all("autovacuum_vacuum_scale_factor=0.02" in each for each in options.values())


def test_an_event_wakes_the_relay(settings: Settings, monkeypatch: pytest.MonkeyPatch, namespace: str) -> None:
    settings.CHOREOGRAPHY = {"SERVICES": SERVICES, "BROKER_URL": f"embedded:///:memory:{namespace}"}
    monkeypatch.setattr(relay, "_UPKEEP", 10 * HANGING)
    stop, ready, checks = threading.Event(), threading.Event(), Mock(wraps=close_old_connections)
    monkeypatch.setattr(relay, "close_old_connections", checks)
    looks = Mock(wraps=relay.publish_waiting)
    monkeypatch.setattr(relay, "publish_waiting", looks)
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(_and_hang_up, lambda: relay.run("orders", stop, ready.set))
        try:
            assert ready.wait(HANGING)
            announce_one()
            eventually(lambda: not OrdersOutbox.objects.filter(published_at=None).exists(), HANGING)
        finally:
            stop.set()
            announce_one()
        running.result(HANGING)
    assert checks.call_count == 1, "woken, it publishes at once: the connections were checked when it began"
    assert looks.call_count <= 3, "it looks when it begins and when something was announced, and waits otherwise"


def notifications(listener: relay.OutboxListener) -> list[Any]:
    """What PostgreSQL has told it."""
    connection = listener._connection
    connection.poll()
    return list(connection.notifies)


def test_an_event_that_is_rolled_back_wakes_nobody_and_is_not_there() -> None:
    listener = relay.OutboxListener("orders")
    listener.listen()
    with transaction_of("orders"):
        announce(OrderCancelled(reason="customer_request"), subject=uuid4())
        transaction.set_rollback(True, using="orders")
    assert notifications(listener) == []
    assert not OrdersOutbox.objects.exists()
    listener.close()


def test_of_two_deliveries_at_once_one_takes_effect(
    monkeypatch: pytest.MonkeyPatch, elsewhere: Callable[[Callable[[], Outcome]], Outcome]
) -> None:
    """The second waits for the first to commit, and then finds that it came too late."""
    order_cancelled, close = _order_cancelled(), shipping.close_shipment

    def close_when_another_waits(shipment: Shipment, reason: str) -> None:
        close(shipment, reason)
        eventually(_someone_waits_for_us, HANGING)

    monkeypatch.setattr(shipping, "close_shipment", close_when_another_waits)
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(_and_hang_up, lambda: handle_one(order_cancelled))
        second = elsewhere(lambda: handle_one(order_cancelled))

    assert {type(first.result()), type(second)} == {Done, Duplicate}
    assert Inbox.objects.count() == 1


def test_of_two_batches_at_once_each_event_takes_effect_in_one(
    monkeypatch: pytest.MonkeyPatch, elsewhere: Callable[[Callable[[], Any]], Any]
) -> None:
    """They share two events: the one that comes second waits for the other's commit, and does the rest."""
    first, *shared, last = (_order_cancelled() for _ in range(4))
    close, met = shipping.close_shipment, threading.Event()

    def close_when_another_waits(shipment: Shipment, reason: str) -> None:
        close(shipment, reason)
        if not met.is_set():
            met.set()
            eventually(_someone_waits_for_us, HANGING)

    monkeypatch.setattr(shipping, "close_shipment", close_when_another_waits)
    with ThreadPoolExecutor(1) as pool:
        one = pool.submit(_and_hang_up, lambda: handle([first, *shared]))
        other = elsewhere(lambda: handle([last, *reversed(shared)]))

    (alone, *ours), (also_alone, *theirs) = one.result(), other
    assert [alone, also_alone] == [Done(), Done()]
    assert [{type(it), type(that)} for it, that in zip(ours, reversed(theirs), strict=True)] == [{Done, Duplicate}] * 2
    assert Inbox.objects.count() == 4


def test_of_two_that_make_a_row_at_once_the_second_starts_over_and_finds_it(
    monkeypatch: pytest.MonkeyPatch, elsewhere: Callable[[Callable[[], Outcome]], Outcome]
) -> None:
    order, insert, made = str(uuid4()), bulk.insert_new, threading.Event()
    ship_to = {"street": "Main Street 1", "city": "Bonn", "postal_code": "53111", "country": "DE"}
    placed = event(subject=order, data={"customer": {"name": {"full": "Ada"}}, "ship_to": ship_to})
    requested = event("orders.cancellation_requested.v1", subject=order, data={"reason": "customer_request"})

    def insert_when_another_waits(new: Sequence[Any], by: Sequence[str], using: str) -> list[Any]:
        inserted = insert(new, by, using)
        if inserted and not made.is_set():
            made.set()
            eventually(_someone_waits_for_us, HANGING)
        return inserted

    monkeypatch.setattr(bulk, "insert_new", insert_when_another_waits)
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(_and_hang_up, lambda: handle_one(Delivery("shipping", text(placed), CONTENT_TYPE)))
        assert made.wait(HANGING)
        second = elsewhere(lambda: handle_one(Delivery("shipping", text(requested), CONTENT_TYPE)))

    assert (first.result(), second) == (Done(), Done())
    assert Shipment.objects.get().state == Shipment.State.CANCELLED


def test_of_two_deliveries_at_once_one_asks_the_external_system(
    monkeypatch: pytest.MonkeyPatch, elsewhere: Callable[[Callable[[], Outcome]], Outcome]
) -> None:
    asked, answer, find = threading.Event(), threading.Event(), SandboxGateway.find

    def find_when_told(gateway: SandboxGateway, key: str) -> object:
        asked.set()
        assert answer.wait(HANGING)
        return find(gateway, key)

    monkeypatch.setattr(SandboxGateway, "find", find_when_told)
    order_placed = Delivery("payments", text(event()), CONTENT_TYPE)
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(_and_hang_up, lambda: handle_one(order_placed))
        assert asked.wait(HANGING)
        second = elsewhere(lambda: handle_one(order_placed))
        answer.set()

    assert isinstance(second, RetryLater)
    assert isinstance(first.result(), Done)
    assert isinstance(handle_one(order_placed), Duplicate)
    assert Outbox.objects.count() == 1


def test_of_two_that_move_a_redrive_on_at_once_one_waits_and_finds_it_moved() -> None:
    dead_letters = park_unusable(10)
    started = redrives.start("shipping", dead_letters[0].fingerprint, By("ada"), redrives.HIGHEST_RATE)
    second = Recorder()

    def move_on_elsewhere() -> None:
        pool.submit(_and_hang_up, lambda: redrives.advance(started, second))
        eventually(_someone_waits_for_us, HANGING)

    with ThreadPoolExecutor(1) as pool:
        first = Recorder(meanwhile=move_on_elsewhere)
        redrives.advance(started, first)

    assert (len(first.bodies), len(second.bodies)) == (1, 0)
    assert DeadLetterAction.objects.count() == 1


def test_of_two_who_send_a_dead_letter_again_at_once_one_is_told_it_is_too_late() -> None:
    (dead_letter,) = park_unusable(1)

    def press_elsewhere() -> None:
        late.append(pool.submit(_and_hang_up, lambda: send_again(dead_letter, Recorder(), By("bob"))))
        eventually(_someone_waits_for_us, HANGING)

    late: list[Future[None]] = []
    with ThreadPoolExecutor(1) as pool:
        send_again(dead_letter, Recorder(meanwhile=press_elsewhere), By("ada"))

    with pytest.raises(NotParked):
        late[0].result(HANGING)
    assert [line.who for line in DeadLetterAction.objects.all()] == ["ada"]


def test_a_dry_run_leaves_no_row_no_lock_and_wakes_nobody() -> None:
    listener = relay.OutboxListener("shipping")
    listener.listen()
    cancelled = _order_requested_to_be_cancelled()
    dead_letter = DeadLetter.objects.create(
        key="k", error="E", message="", body=cancelled.body, content_type=CONTENT_TYPE
    )
    hooks: list[str] = []

    with pytest.MonkeyPatch.context() as patch:
        cancel = shipping.cancel_shipment

        def cancel_and_tell(shipment: Shipment, reason: str) -> None:
            cancel(shipment, reason)
            transaction.on_commit(lambda: hooks.append("committed"), using="shipping")

        patch.setattr(shipping, "cancel_shipment", cancel_and_tell)
        found = dry_run(dead_letter, By("ada"))

    assert [event["type"] for event in found.announces] == ["shipping.shipment_cancelled.v1"]
    assert not Inbox.objects.exists()
    assert not ShippingOutbox.objects.exists()
    assert not Shipment.objects.exists()
    assert notifications(listener) == []
    assert hooks == []
    listener.close()


def test_a_dry_run_lets_go_of_its_claim_even_when_the_transaction_is_broken(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def broken(gateway: SandboxGateway, key: str) -> None:
        with connections["payments"].cursor() as cursor:
            cursor.execute("SELECT 1 FROM nowhere")

    dead_letter = payments_models.DeadLetter.objects.create(
        key="k", error="E", message="", body=text(event()), content_type=CONTENT_TYPE
    )
    with monkeypatch.context() as patch:
        patch.setattr(SandboxGateway, "find", broken)
        assert "nowhere" in dry_run(dead_letter, By("ada")).error

    with connections["payments"].cursor() as cursor:
        cursor.execute("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'")
        assert cursor.fetchone() == (0,)
    assert isinstance(handle_one(Delivery("payments", bytes(dead_letter.body), CONTENT_TYPE)), Done)


def park_unusable(number: int) -> list[DeadLetter]:
    """Dead letters of one group, oldest first."""
    for count in range(number):
        handle_one(Delivery("shipping", b"rubbish %d" % count, CONTENT_TYPE))
    return list(DeadLetter.objects.order_by("pk"))


def _order_requested_to_be_cancelled() -> Delivery:
    requested = event("orders.cancellation_requested.v1", data={"reason": "customer_request"})
    return Delivery("shipping", text(requested), CONTENT_TYPE)


def _order_cancelled() -> Delivery:
    return Delivery(
        "shipping", text(event("orders.order_cancelled.v1", data={"reason": "customer_request"})), CONTENT_TYPE
    )


def _someone_waits_for_us() -> bool:
    """Whether another session waits for a lock of this transaction."""
    with connections["shipping"].cursor() as cursor:
        cursor.execute(
            "SELECT EXISTS (SELECT FROM pg_locks WHERE NOT granted AND pg_backend_pid() = ANY (pg_blocking_pids(pid)))"
        )
        return bool(cursor.fetchone()[0])


@pytest.mark.parametrize("hours", [1, -1, 24, -24])
def test_a_process_takes_the_time_from_the_database(monkeypatch: pytest.MonkeyPatch, hours: int) -> None:
    class OnAnotherMachine(datetime):
        @classmethod
        def now(cls, tz: Any = None) -> Any:
            return datetime.now(tz) + timedelta(hours=hours)

    monkeypatch.setattr(clock, "datetime", OnAnotherMachine)
    monkeypatch.setattr(clock.system, "_ahead", timedelta())
    assert abs(clock.now() - datetime.now(UTC)) > timedelta(minutes=59)

    connections["payments"].close()
    connections["payments"].ensure_connection()

    assert abs(clock.now() - datetime.now(UTC)) < timedelta(seconds=5)
