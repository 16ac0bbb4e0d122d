"""All services in one process, on a frozen clock: nothing is left out but the broker and the passing of time."""

import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch
from uuid import UUID

from django.db import OperationalError

from choreography import delivery, topology, world
from choreography.delivery import Delivery, Outcome
from choreography.embedded.store import Stored
from choreography.models import table_of
from choreography.publishing import Outgoing
from choreography.registry import reaction_to
from choreography.testing import Choreography, FrozenWorld, Step
from orders.models import Order, Product
from orders.services import Pick, place_order
from payments.gateway import gateway
from payments.models import Payment
from payments.sandbox import BookEntry, SandboxGateway
from shipping.carrier import carrier
from shipping.models import Shipment
from shipping.sandbox import ParcelEntry, SandboxCarrier

TRACK_PARCELS = "shipping.track_parcels"


class Crash(BaseException):
    """A worker is killed. No ``except Exception`` stops it."""


class Shop(Choreography):
    """The choreography, with the words a journey needs."""

    def __init__(self, frozen: FrozenWorld) -> None:
        super().__init__(frozen)
        self.time = frozen

    # What people do

    def place(self, token: str = "tok_approved", street: str = "Main Street 1", quantity: int = 2) -> Order:
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
        for other in passed_over:
            self.broker.reject(other.tag, requeue=True)  # it goes back to where it stood
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
        end = world.now().timestamp() + seconds
        while True:
            self.drain()
            now, due = world.now().timestamp(), self.broker.next_due()
            if due is None or due > end:
                self.time.advance(max(end - now, 0))
                return
            self.time.advance(max(due - now, 0) + 0.001)

    def come_to_rest(self) -> None:
        """Leap from one thing that is due to the next until nothing is: like ``settle``, but in no time.

        Raises:
            AssertionError: something always falls due again.
        """
        for _ in range(500):
            due = self.broker.next_due()
            if self.drain():
                continue
            if due is not None:
                self.time.advance(max(due - world.now().timestamp(), 0) + 0.001)
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
        with patch.object(delivery, "_resolve", _die):
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

        take_effect = delivery._take_effect

        def refuse(delivery: Delivery, *args: Any) -> Outcome:
            if delivery.service == service:
                raise OperationalError("could not connect to server: Connection refused")
            return take_effect(delivery, *args)

        with patch.object(delivery, "_take_effect", refuse):
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
        """Every event of an order, over all services, in the order of announcement."""
        return [row.event_type for row in self.outboxes(order)]

    def outboxes(self, order: Order) -> list[Any]:
        """The outbox rows of an order, over all services, in the order of announcement."""
        rows = [
            row for service in self.services for row in table_of(service, "Outbox").objects.filter(subject=order.pk)
        ]
        return sorted(rows, key=lambda row: (row.announced_at, row.event_id))

    def outcomes(self) -> list[Outcome]:
        """What became of every delivery so far."""
        return [step.outcome for step in self.steps]

    def letters(self, service: str | None = None) -> list[Any]:
        """The dead letters of a service, or of all."""
        services = self.services if service is None else [service]
        return [letter for each in services for letter in table_of(each, "DeadLetter").objects.all()]

    # How things stand with the provider and the carrier, by their own books

    def booked(self, order_id: UUID) -> list[BookEntry]:
        """What the gateway's own books have of an order."""
        books = gateway()
        assert isinstance(books, SandboxGateway)
        return [entry for entry in books.books() if entry.key.startswith(str(order_id))]

    def charged(self, order_id: UUID) -> int:
        """What the gateway's own books say the customer has paid in the end."""
        return _sum(self.booked(order_id), captured=1, refunded=-1)

    def held(self, order_id: UUID) -> int:
        """What the gateway's own books still hold."""
        return _sum(self.booked(order_id), authorized=1, captured=-1, voided=-1)

    def sent(self, order_id: UUID) -> list[ParcelEntry]:
        """What the carrier's own books have of an order, what it refused left out."""
        books = carrier()
        assert isinstance(books, SandboxCarrier)
        return [entry for entry in books.books() if entry.key == str(order_id) and entry.parcel]

    def parcels(self, order_id: UUID) -> list[str | None]:
        """The states of an order's parcels in the carrier's own books."""
        return [entry.state for entry in self.sent(order_id)]


def _type_of(message: Stored) -> str:
    return str(json.loads(message.body)["type"])


def _sum(entries: Iterable[BookEntry], **signs: int) -> int:
    return sum(signs.get(entry.outcome, 0) * entry.amount for entry in entries)


def _die(*args: Any) -> None:
    raise Crash


# The invariants of DESIGN.md, section 6


def assert_nothing_is_wrong(shop: Shop, orders: Iterable[Order]) -> None:
    """What holds at every moment, whatever is still under way."""
    for order in orders:
        now = shop.order(order)
        kinds = Counter(entry.outcome for entry in shop.booked(order.pk))
        assert max((kinds[kind] for kind in ("authorized", "captured", "voided", "refunded")), default=0) <= 1, kinds
        assert 0 <= shop.charged(order.pk) <= order.total, "charged too much, or paid out"
        assert len(shop.sent(order.pk)) <= 1, "sent more than once"
        if now.is_cancelled:
            arriving = {"in_transit", "delivered"} & set(shop.parcels(order.pk))
            assert not arriving, f"cancelled, and a parcel is {arriving.pop()}"


def assert_invariants(shop: Shop, orders: Iterable[Order]) -> None:
    """What holds once everything has come to rest."""
    orders = list(orders)
    assert_nothing_is_wrong(shop, orders)
    _assert_broker_is_empty(shop)
    for order in orders:
        for invariant in _AT_REST:
            invariant(shop, order)


def _assert_broker_is_empty(shop: Shop) -> None:
    left = {queue.name: (queue.ready, queue.unacked) for queue in shop.broker.queues() if queue.ready or queue.unacked}
    assert not left, f"messages are left: {left}"


def needs_a_person(shop: Shop, order: Order) -> bool:
    """The order shows that it can't go on by itself: a letter is parked, or it says so."""
    parked = [letter for letter in shop.letters() if letter.subject == order.pk and letter.state == letter.State.PARKED]
    return bool(parked or shop.order(order).attention)


def _ended(shop: Shop, order: Order) -> None:
    """Every order is completed or cancelled, or is visibly parked for a person."""
    if not needs_a_person(shop, order):
        assert shop.status(order) in (Order.Status.COMPLETED, Order.Status.CANCELLED)


def _completed_is_paid_and_delivered(shop: Shop, order: Order) -> None:
    if shop.status(order) == Order.Status.COMPLETED:
        payment = shop.payment(order)
        assert (payment.captured, payment.refunded, payment.held) == (order.total, 0, 0)
        assert (shop.charged(order.pk), shop.held(order.pk)) == (order.total, 0)
        assert shop.parcels(order.pk) == ["delivered"]
        assert shop.shipment(order).state == Shipment.State.DELIVERED


def _cancelled_leaves_nothing(shop: Shop, order: Order) -> None:
    if shop.status(order) == Order.Status.CANCELLED and not needs_a_person(shop, order):
        payment = shop.payment(order)
        assert (payment.kept, payment.held) == (0, 0)
        assert (shop.charged(order.pk), shop.held(order.pk)) == (0, 0)
        assert not {"in_transit", "delivered"} & set(shop.parcels(order.pk))
        assert shop.shipment(order).state in (Shipment.State.CANCELLED, Shipment.State.FAILED)


def _ledger_agrees_with_the_gateway(shop: Shop, order: Order) -> None:
    """Per idempotency key, and summed up: nobody is charged twice, and nothing is forgotten."""
    payment = Payment.objects.filter(pk=order.pk).first()
    entries = {entry.key: (entry.kind, entry.amount) for entry in payment.entries.all()} if payment else {}
    moved = {entry.key: (entry.outcome, entry.amount) for entry in shop.booked(order.pk) if entry.amount}
    assert entries == moved
    if payment:
        sums = Counter[str]()
        for kind, amount in entries.values():
            sums[kind] += amount
        for kind in ("authorized", "captured", "voided", "refunded"):
            assert getattr(payment, kind) == sums[kind]


def _shipment_agrees_with_the_carrier(shop: Shop, order: Order) -> None:
    shipment = Shipment.objects.filter(pk=order.pk).first()
    parcel = [shipment.parcel] if shipment and shipment.parcel else []
    assert [entry.parcel for entry in shop.sent(order.pk)] == parcel


def _everything_is_heard_once(shop: Shop, order: Order) -> None:
    """Each committed event took effect exactly once in each service that reacts to it, or is parked there."""
    for row in shop.outboxes(order):
        assert row.published_at is not None, f"{row} was never published"
        for service in shop.services:
            reaction = reaction_to(service, row.event_type)
            heard = [entry.reaction for entry in table_of(service, "Inbox").objects.filter(event_id=row.event_id)]
            parked = table_of(service, "DeadLetter").objects.filter(event_id=row.event_id, state="parked").exists()
            expected = [reaction.name] if reaction and not parked else []
            assert heard == expected or (parked and heard), f"{service} heard {row} through {heard}"


def _every_effect_is_there_once(shop: Shop, order: Order) -> None:
    rows = shop.outboxes(order)
    effects = Counter((row.caused_by, row.event_type) for row in rows if row.caused_by)
    assert not [effect for effect, times in effects.items() if times > 1]
    for service in shop.services:
        sequence = [row.sequence for row in rows if row.event_type.startswith(f"{service}.")]
        assert sequence == list(range(1, len(sequence) + 1))


def _every_end_is_announced(shop: Shop, order: Order) -> None:
    """And nothing is announced that did not happen."""
    said = Counter(shop.announced(order))
    now = shop.order(order)
    payment = Payment.objects.filter(pk=order.pk).first() or Payment(pk=order.pk)
    state = getattr(Shipment.objects.filter(pk=order.pk).first(), "state", None)
    expected = {
        "orders.order_placed.v1": True,
        "orders.order_completed.v1": now.status == Order.Status.COMPLETED,
        "orders.order_cancelled.v1": now.is_cancelled,
        "payments.payment_declined.v1": bool(payment.declined),
        "payments.payment_captured.v1": bool(payment.captured),
        "payments.payment_refunded.v1": bool(payment.refunded),
        "payments.capture_failed.v1": bool(payment.capture_refused),
        "shipping.shipment_delivered.v1": state == Shipment.State.DELIVERED,
        "shipping.shipment_failed.v1": state == Shipment.State.FAILED,
    }
    assert {event: said[event] for event in expected} == {event: int(true) for event, true in expected.items()}
    if needs_a_person(shop, order):
        return
    if now.is_cancelled:
        given_back = said["payments.payment_voided.v1"] + said["payments.payment_refunded.v1"]
        assert given_back == (0 if payment.declined else 1), "the money's end is announced once"
    answers = ["shipping.shipment_cancelled.v1", "shipping.cancellation_refused.v1"]
    answered = sum(said[answer] for answer in answers)
    asked = said["orders.cancellation_requested.v1"]
    # A carrier that won't take the parcel answers in another way.
    assert asked - said["shipping.shipment_failed.v1"] <= answered <= asked, "each request to cancel is answered once"


_AT_REST: list[Callable[[Shop, Order], None]] = [
    _ended,
    _completed_is_paid_and_delivered,
    _cancelled_leaves_nothing,
    _ledger_agrees_with_the_gateway,
    _shipment_agrees_with_the_carrier,
    _everything_is_heard_once,
    _every_effect_is_there_once,
    _every_end_is_announced,
]
