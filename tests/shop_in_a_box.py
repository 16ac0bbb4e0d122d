"""All services in one process, on a frozen clock: nothing is left out but the broker and the passing of time."""

import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final
from unittest.mock import patch
from uuid import UUID

from django.conf import settings
from django.db import OperationalError

from choreography.broker import topology
from choreography.broker.embedded.store import Stored
from choreography.broker.publisher import Outgoing
from choreography.core import clock
from choreography.events.registry import Reaction
from choreography.inbox import handler, unit_of_work
from choreography.inbox.deliveries import Outcome
from choreography.simulation import Crash
from choreography.storage.tables import ServiceTables
from choreography.testing import Choreography, FrozenClock, Step
from orders.models import Order, Product
from orders.services import Pick, place_order
from payments.gateway import gateway
from payments.models import Payment
from payments.sandbox import RecordEntry, SandboxGateway
from shipping.carrier import carrier
from shipping.models import Shipment
from shipping.sandbox import ParcelEntry, SandboxCarrier
from tests.invariants import Facts, once_settled

TRACK_PARCELS = "shipping.track_parcels"
#: The services an order goes through.
SERVICES = tuple(service for service in settings.ALL_SERVICES if service != "journal")
#: What the machinery's settings say in a shop that keeps no journal.
WITHOUT_JOURNAL: Final = {"SERVICES": SERVICES, "REPORTS": ()}
#: And in one that does.
WITH_JOURNAL: Final = {"SERVICES": (*SERVICES, "journal"), "REPORTS": SERVICES}


class Shop(Choreography):
    """The choreography, with the words a flow needs."""

    def __init__(self, frozen: FrozenClock, services: Iterable[str] | None = None) -> None:
        super().__init__(frozen, services)
        self.time = frozen

    # What people do

    def place(
        self,
        token: str = "tok_approved",
        street: str = "Main Street 1",
        quantity: int = 2,
        submission: UUID | None = None,
    ) -> Order:
        """A customer places an order: two pots of tea for 25.00 EUR."""
        tea, _ = Product.objects.get_or_create(sku="TEA", defaults={"name": "Tea", "price": 1250, "currency": "EUR"})
        order = Order(
            customer_name="Ada Example",
            customer_email="ada@example.org",
            street=street,
            city="Bonn",
            postal_code="53111",
            country="DE",
            payment_token=token,
            submission=submission,
        )
        return place_order(order, [Pick(tea, quantity)])

    # What happens, step by step

    def hear(self, service: str, event_type: str | None = None) -> Step:
        """Relay everything; then one service handles one message, the next or the first one of a type."""
        for each in self.services:
            self.relay(each)
        passed_over = []
        while (message := self.take(service)) and event_type not in (None, _type_of(message)):
            passed_over.append(message)
        for tag in {other.tag for other in passed_over}:
            self.broker.reject(tag, requeue=True)  # it goes back to where it stood
        assert message is not None, f"there is no {event_type or 'message'} for {service} to hear"
        return self.handle(service, message)

    def hear_all(self, service: str) -> None:
        """One service handles everything there is for it to hear."""
        for each in self.services:
            self.relay(each)
        while self.handle_next(service):
            continue

    def pass_time(self, seconds: float) -> None:
        """Time passes, and everything that falls due on the ladders meanwhile is handled. No timer ticks."""
        end = clock.now().timestamp() + seconds
        while True:
            self.drain()
            now, due = clock.now().timestamp(), self.broker.next_due()
            if due is None or due > end:
                self.time.advance(max(end - now, 0))
                return
            self.time.advance(max(due - now, 0) + 0.001)

    def settle_at_once(self) -> None:
        """Leap from one thing that is due to the next until nothing is: like ``settle``, but in no time.

        Raises:
            AssertionError: something always falls due again.
        """
        for _ in range(500):
            due = self.broker.next_due()
            if self.drain():
                continue
            if due is not None:
                self.time.advance(max(due - clock.now().timestamp(), 0) + 0.001)
            elif Shipment.objects.under_way().exists():
                self.time.advance(5)
                self.tick(TRACK_PARCELS)
            else:
                return
        raise AssertionError(f"no rest: {self.waiting()} message(s) on the ladders")

    def repeat(self, step: Step) -> None:
        """The broker delivers a message once more."""
        self.put(step.service, step.message)

    def put(self, service: str, message: Stored) -> None:
        """Put a copy of a message into a service's inbox."""
        self.send(service, message.body, message.content_type, message.headers)

    def send(
        self,
        service: str,
        body: bytes,
        content_type: str | None = "application/cloudevents+json",
        headers: Mapping[str, Any] | None = None,
    ) -> None:
        """A foreign program puts a message straight into a service's inbox."""
        self.publish([Outgoing(body, "", topology.queue_name(service), content_type, headers or {})])

    def crash_before_commit(self, service: str) -> Step | None:
        """The worker dies when everything is done but the commit; the broker notices.

        Returns:
            ``None``; or the step, if it did not come to a commit.
        """
        with patch.object(unit_of_work, "resolve", _die):
            return self._handle_next_and_die(service)

    def crash_before_acknowledging(self, service: str) -> Step | None:
        """The worker dies after its commit; the broker notices."""
        with patch.object(self.broker, "ack", _die):
            return self._handle_next_and_die(service)

    def _handle_next_and_die(self, service: str) -> Step | None:
        try:
            return self.handle_next(service)
        except Crash:
            self.lose_connections()
            return None

    @contextmanager
    def database_down(self, service: str) -> Iterator[None]:
        """A service's reactions can't reach their database."""
        take_effect = unit_of_work.take_effect

        def refuse(reaction: Reaction, *args: Any) -> Any:
            if reaction.service == service:
                raise OperationalError("could not connect to server: Connection refused")
            return take_effect(reaction, *args)

        with patch.object(handler, "take_effect", refuse):
            yield

    # How things stand

    def order(self, order: Order) -> Order:
        """The order as it is now."""
        return Order.objects.get(pk=order.pk)

    def status(self, order: Order) -> str:
        return str(self.order(order).status)

    def payment(self, order: Order) -> Payment:
        return Payment.objects.get(pk=order.pk)

    def shipment(self, order: Order) -> Shipment:
        return Shipment.objects.get(pk=order.pk)

    def announced(self, order: Order) -> list[str]:
        """Every fact about an order, over all services, in the order of announcement; of its versions the newest."""
        return [row.event_type for row in self.outboxes(order) if row.fact_id is None]

    def outboxes(self, order: Order) -> list[Any]:
        """The outbox rows of an order, over all services, in the order of announcement."""
        rows = [row for service in self.services for row in ServiceTables(service).outbox.filter(subject=order.pk)]
        return sorted(rows, key=lambda row: (row.announced_at, row.event_id))

    def outcomes(self) -> list[Outcome]:
        """What became of every delivery so far."""
        return [step.outcome for step in self.steps]

    def dead_letters(self, service: str | None = None) -> list[Any]:
        """The dead letters of a service, or of all."""
        services = self.services if service is None else [service]
        return [dead_letter for each in services for dead_letter in ServiceTables(each).dead_letters.all()]

    # How things stand with the provider and the carrier, by their own records

    def booked(self, order_id: UUID) -> list[RecordEntry]:
        """What the gateway's own records have of an order."""
        records = gateway()
        assert isinstance(records, SandboxGateway)
        return [entry for entry in records.records() if entry.key.startswith(str(order_id))]

    def charged(self, order_id: UUID) -> int:
        """What the gateway's own records say the customer has paid in the end."""
        return _sum(self.booked(order_id), captured=1, refunded=-1)

    def held(self, order_id: UUID) -> int:
        """What the gateway's own records still hold."""
        return _sum(self.booked(order_id), authorized=1, captured=-1, voided=-1)

    def sent(self, order_id: UUID) -> list[ParcelEntry]:
        """What the carrier's own records have of an order, what it refused left out."""
        records = carrier()
        assert isinstance(records, SandboxCarrier)
        return [entry for entry in records.records() if entry.key == str(order_id) and entry.parcel]

    def parcels(self, order_id: UUID) -> list[str | None]:
        """The states of an order's parcels in the carrier's own records."""
        return [entry.state for entry in self.sent(order_id)]


def _type_of(message: Stored) -> str:
    return str(json.loads(message.body)["type"])


def _sum(entries: Iterable[RecordEntry], **signs: int) -> int:
    return sum(signs.get(entry.outcome, 0) * entry.amount for entry in entries)


def _die(*args: Any) -> None:
    raise Crash


# The invariants of DESIGN.md, section 6: see tests/invariants.py


def assert_invariants(shop: Shop, orders: Iterable[Order]) -> None:
    """What holds once everything has settled."""
    left = {queue.name: (queue.ready, queue.unacked) for queue in shop.broker.queues() if queue.ready or queue.unacked}
    assert not left, f"messages are left: {left}"
    assert once_settled(Facts([order.pk for order in orders])) == []


def needs_a_person(shop: Shop, order: Order) -> bool:
    """The order shows that it can't go on by itself: a dead letter is parked, or it says so."""
    return Facts([order.pk]).needs_a_person(shop.order(order))
