"""What only PostgreSQL does: locks that are skipped, notifications, and a wait for another's commit.

Not collected by itself: ``test_on_postgresql`` runs it with a database at hand.
"""

import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar
from uuid import UUID, uuid4

import pytest
from django.db import connection, connections, transaction
from pytest_django.fixtures import Settings

from choreography import relay
from choreography.contracts import CONTENT_TYPE
from choreography.delivery import Delivery, Done, Duplicate, Outcome, deliver
from choreography.outbox import announce, wake_relay
from choreography.publishing import Outgoing
from orders.events import OrderCancelled
from orders.models import Outbox as OrdersOutbox
from payments.models import Inbox, Outbox
from payments.sandbox import SandboxGateway
from tests.processes import SERVICES, eventually
from tests.wire import event, text

pytestmark = pytest.mark.django_db(transaction=True, databases="__all__")

#: Seconds after which something that should happen at once counts as hanging.
HANGING = 20.0
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
        self.bodies += [message.body for message in messages]
        self._meanwhile()

    def close(self) -> None:
        """There is nothing to let go of."""


def announce_one() -> UUID:
    with transaction.atomic(using="orders"):
        return announce(OrderCancelled(reason="customer_request"), subject=uuid4()).id


def test_two_relays_publish_each_event_once(elsewhere: Callable[[Callable[[], int]], int]) -> None:
    for _ in range(4):
        announce_one()
    second = Recorder()
    first = Recorder(meanwhile=lambda: elsewhere(lambda: relay.move("orders", second)))

    assert relay.move("orders", first, limit=2) == 2

    assert len(first.bodies) == len(second.bodies) == 2
    assert len({*first.bodies, *second.bodies}) == 4
    assert not OrdersOutbox.objects.filter(published_at=None).exists()


def test_an_event_wakes_the_relay(settings: Settings, monkeypatch: pytest.MonkeyPatch, namespace: str) -> None:
    settings.CHOREOGRAPHY = {"SERVICES": SERVICES, "BROKER_URL": f"embedded:///:memory:{namespace}"}
    monkeypatch.setattr(relay, "_IDLE", 10 * HANGING)
    stop, ready = threading.Event(), threading.Event()
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(_and_hang_up, lambda: relay.run("orders", stop, ready.set))
        try:
            assert ready.wait(HANGING)
            announce_one()
            eventually(lambda: not OrdersOutbox.objects.filter(published_at=None).exists(), HANGING)
        finally:
            stop.set()
            wake_relay("orders", "orders")
        running.result(HANGING)


def test_an_event_that_is_rolled_back_wakes_nobody_and_is_not_there() -> None:
    waker = relay.Waker("orders")
    waker.listen("orders")
    with transaction.atomic(using="orders"):
        announce(OrderCancelled(reason="customer_request"), subject=uuid4())
        transaction.set_rollback(True, using="orders")
    listener = waker._listener
    listener.poll()

    assert listener.notifies == []
    assert not OrdersOutbox.objects.exists()
    waker.close()


def test_one_of_two_deliveries_at_once_takes_effect(monkeypatch: pytest.MonkeyPatch) -> None:
    both, find = threading.Barrier(2, timeout=HANGING), SandboxGateway.find

    def meet_and_find(gateway: SandboxGateway, key: str) -> object:
        both.wait()
        return find(gateway, key)

    monkeypatch.setattr(SandboxGateway, "find", meet_and_find)
    placed = text(event())

    def handle() -> Outcome:
        return _and_hang_up(lambda: deliver(Delivery("payments", placed, CONTENT_TYPE)))

    with ThreadPoolExecutor(2) as pool:
        outcomes = [running.result(HANGING) for running in [pool.submit(handle), pool.submit(handle)]]

    assert {type(outcome) for outcome in outcomes} == {Done, Duplicate}
    assert Inbox.objects.count() == 1
    assert Outbox.objects.count() == 1
