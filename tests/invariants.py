"""The invariants of DESIGN.md, section 6, checked from the services' tables and the records of the sandboxes.

``at_any_moment`` finds what must never be the case, ``once_settled`` what must not be once everything has settled.
Each finding names its invariant, which is the name of the function that found it. Nothing is changed.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterator
from functools import cached_property
from typing import Any
from uuid import UUID

from choreography.core.conf import conf
from choreography.events.registry import reaction_to
from choreography.simulation import Violation
from choreography.storage.tables import ServiceTables
from orders.models import Order
from payments.gateway import gateway
from payments.models import Entry, Payment
from payments.sandbox import RecordEntry, SandboxGateway
from shipping.carrier import Tracking, carrier
from shipping.models import Shipment
from shipping.sandbox import ParcelEntry, SandboxCarrier

#: The four ways money moves, by the names both the ledger and the gateway's records have for them.
MOVES = ("authorized", "captured", "voided", "refunded")


class Facts:
    """What is on record about some orders, or all, each table read once, when it is first asked for."""

    def __init__(self, order_ids: Collection[UUID] | None = None) -> None:
        self._order_ids = order_ids

    @cached_property
    def orders(self) -> dict[UUID, Order]:
        rows = Order.objects.all() if self._order_ids is None else Order.objects.filter(pk__in=self._order_ids)
        return {order.pk: order for order in rows}

    @cached_property
    def payments(self) -> dict[UUID, Payment]:
        return {payment.pk: payment for payment in self._about(Payment.objects.all(), "pk")}

    @cached_property
    def entries(self) -> dict[UUID, list[Entry]]:
        return _grouped(self._about(Entry.objects.all(), "payment_id"), lambda entry: entry.payment_id)

    @cached_property
    def shipments(self) -> dict[UUID, Shipment]:
        return {shipment.pk: shipment for shipment in self._about(Shipment.objects.all(), "pk")}

    @cached_property
    def booked(self) -> dict[UUID, list[RecordEntry]]:
        """The gateway's own records, by the order that its idempotency keys begin with."""
        records = gateway()
        assert isinstance(records, SandboxGateway)
        return _grouped(records.records(), lambda entry: UUID(entry.key.partition(":")[0]))

    @cached_property
    def parcels(self) -> dict[UUID, list[ParcelEntry]]:
        """The carrier's own records, what it refused left out. A key begins with the order."""
        records = carrier()
        assert isinstance(records, SandboxCarrier)
        taken = (entry for entry in records.records() if entry.parcel)
        return _grouped(taken, lambda entry: UUID(entry.key.partition(":")[0]))

    @cached_property
    def announced(self) -> dict[UUID, list[Any]]:
        """Outbox rows of all services, by order."""
        return _grouped(self._rows("outbox"), lambda row: UUID(row.subject))

    @cached_property
    def heard(self) -> dict[UUID, list[tuple[str, Any]]]:
        """Inbox rows of all services with the service, by event."""
        return _grouped(self._rows_of_services("inbox"), lambda pair: pair[1].event_id)

    @cached_property
    def dead_letters(self) -> list[tuple[str, Any]]:
        """Dead letters that wait for a person, with their service."""
        rows = [
            (service, dead_letter)
            for service in conf().services
            for dead_letter in ServiceTables(service).dead_letters.filter(state="parked")
        ]
        wanted = None if self._order_ids is None else {"", *map(str, self._order_ids)}
        return [pair for pair in rows if wanted is None or pair[1].subject in wanted]

    @cached_property
    def parked(self) -> set[tuple[str, UUID]]:
        """The service and event of every such dead letter."""
        return {(service, dead_letter.event_id) for service, dead_letter in self.dead_letters if dead_letter.event_id}

    @cached_property
    def _subjects_parked(self) -> set[str]:
        return {dead_letter.subject for _, dead_letter in self.dead_letters if dead_letter.subject}

    def needs_a_person(self, order: Order) -> bool:
        """The order shows that it can't go on by itself: a dead letter about it is parked, or it says so."""
        return bool(order.attention) or str(order.pk) in self._subjects_parked

    def charged(self, order_id: UUID) -> int:
        """What the gateway's own records say the customer has paid in the end."""
        return _sum(self.booked.get(order_id, []), captured=1, refunded=-1)

    def held(self, order_id: UUID) -> int:
        """What the gateway's own records still hold."""
        return _sum(self.booked.get(order_id, []), authorized=1, captured=-1, voided=-1)

    def said(self, order_id: UUID) -> Counter[str]:
        """How often each event type was announced about an order."""
        return Counter(row.event_type for row in self.announced.get(order_id, []))

    def _about(self, rows: Any, field: str) -> Any:
        return rows if self._order_ids is None else rows.filter(**{f"{field}__in": self._order_ids})

    def _rows(self, table: str) -> Iterator[Any]:
        return (row for _, row in self._rows_of_services(table))

    def _rows_of_services(self, table: str) -> Iterator[tuple[str, Any]]:
        for service in conf().services:
            rows = getattr(ServiceTables(service), table).order_by("pk")
            rows = rows.exclude(event_type__endswith=".hour_accounted.v1")  # about an hour, not about an order
            for row in self._about(rows.defer("body") if table == "outbox" else rows, "subject"):
                yield service, row


def _order(row: Any) -> UUID | None:
    """The order a row of the machinery is about; ``None`` if that could not be told."""
    return UUID(row.subject) if row.subject else None


def at_any_moment(facts: Facts) -> list[Violation]:
    """What must never be, whatever is under way."""
    return _all(AT_ANY_MOMENT, facts)


def once_settled(facts: Facts) -> list[Violation]:
    """What must not be once nothing is under way any more, what must never be included."""
    return _all({**AT_ANY_MOMENT, **ONCE_SETTLED}, facts)


# Checks: each yields (order, what is wrong)

Finding = tuple[UUID | None, str]


def nobody_is_charged_twice(facts: Facts) -> Iterator[Finding]:
    """By the gateway's own records: each move of money at most once, and never more than the order's total."""
    for order in facts.orders.values():
        times = Counter(entry.outcome for entry in facts.booked.get(order.pk, []))
        for move in MOVES:
            if times[move] > 1:
                yield order.pk, f"the gateway has {move} {times[move]} times"
        charged = facts.charged(order.pk)
        if not 0 <= charged <= order.total:
            yield order.pk, f"the gateway has charged {charged} for a total of {order.total}"


def nothing_is_sent_twice(facts: Facts) -> Iterator[Finding]:
    for order_id in facts.orders:
        parcels = facts.parcels.get(order_id, [])
        if len(parcels) > 1:
            yield order_id, f"the carrier has {len(parcels)} parcels"


def never_cancelled_and_shipped(facts: Facts) -> Iterator[Finding]:
    for order in facts.orders.values():
        if order.is_cancelled:
            for parcel in facts.parcels.get(order.pk, []):
                if parcel.state in (Tracking.IN_TRANSIT, Tracking.DELIVERED):
                    yield order.pk, f"cancelled, and a parcel is {parcel.state}"


def every_order_ends(facts: Facts) -> Iterator[Finding]:
    """Completed or cancelled, or visibly parked for a person."""
    for order in facts.orders.values():
        if order.status not in (Order.Status.COMPLETED, Order.Status.CANCELLED) and not facts.needs_a_person(order):
            yield order.pk, f"it is {order.status}"


def completed_is_paid_and_delivered(facts: Facts) -> Iterator[Finding]:
    for order in facts.orders.values():
        if order.status == Order.Status.COMPLETED:
            payment = facts.payments.get(order.pk, Payment(pk=order.pk))
            shipment = facts.shipments.get(order.pk, Shipment(pk=order.pk))
            yield from _differences(
                order.pk,
                ("captured, refunded, held", (payment.captured, payment.refunded, payment.held), (order.total, 0, 0)),
                ("charged, held outside", (facts.charged(order.pk), facts.held(order.pk)), (order.total, 0)),
                ("parcels", _states(facts, order.pk), ["delivered"]),
                ("shipment", shipment.state, Shipment.State.DELIVERED),
            )


def cancelled_leaves_nothing(facts: Facts) -> Iterator[Finding]:
    """No money taken, none held, nothing on its way to the customer."""
    for order in facts.orders.values():
        if order.status == Order.Status.CANCELLED and not facts.needs_a_person(order):
            payment = facts.payments.get(order.pk, Payment(pk=order.pk))
            shipment = facts.shipments.get(order.pk, Shipment(pk=order.pk))
            yield from _differences(
                order.pk,
                ("kept, held", (payment.kept, payment.held), (0, 0)),
                ("charged, held outside", (facts.charged(order.pk), facts.held(order.pk)), (0, 0)),
                ("parcels", {"in_transit", "delivered"} & set(_states(facts, order.pk)), set()),
            )
            if shipment.state not in (Shipment.State.CANCELLED, Shipment.State.FAILED):
                yield order.pk, f"the shipment is {shipment.state}"


def ledger_agrees_with_the_gateway(facts: Facts) -> Iterator[Finding]:
    """Per idempotency key, and summed up."""
    for order_id in facts.orders:
        entries = facts.entries.get(order_id, [])
        ledger = {entry.key: (entry.kind, entry.amount) for entry in entries}
        records = {entry.key: (entry.outcome, entry.amount) for entry in facts.booked.get(order_id, []) if entry.amount}
        for key in sorted(ledger.keys() | records.keys()):
            if ledger.get(key) != records.get(key):
                yield order_id, f"{key}: the ledger has {ledger.get(key)}, the gateway {records.get(key)}"
        sums = Counter[str]()
        for entry in entries:
            sums[entry.kind] += entry.amount
        payment = facts.payments.get(order_id, Payment(pk=order_id))
        yield from _differences(order_id, *((f"sum {kind}", getattr(payment, kind), sums[kind]) for kind in MOVES))


def shipment_agrees_with_the_carrier(facts: Facts) -> Iterator[Finding]:
    for order_id in facts.orders:
        shipment = facts.shipments.get(order_id)
        ours = [shipment.parcel] if shipment and shipment.parcel else []
        theirs = [entry.parcel for entry in facts.parcels.get(order_id, [])]
        yield from _differences(order_id, ("parcels", ours, theirs))


def every_event_is_published(facts: Facts) -> Iterator[Finding]:
    for order_id, rows in facts.announced.items():
        for row in rows:
            if row.published_at is None:
                yield order_id, f"{row} still waits in the outbox"


def fact_of(row: Any) -> UUID:
    """What inboxes know an outbox row by: all versions of a fact are one."""
    fact: UUID = row.fact_id or row.event_id
    return fact


def every_event_is_heard(facts: Facts) -> Iterator[Finding]:
    """Each committed event took effect in every service that reacts to it, or is parked there."""
    for order_id, rows in facts.announced.items():
        for row in rows:
            heard = {(service, entry.reaction) for service, entry in facts.heard.get(fact_of(row), [])}
            for service in conf().services:
                reaction = reaction_to(service, row.event_type)
                if reaction and (service, reaction.name) not in heard and (service, fact_of(row)) not in facts.parked:
                    yield order_id, f"{service} never heard {row}"


def only_committed_events_are_heard(facts: Facts) -> Iterator[Finding]:
    committed = {fact_of(row) for rows in facts.announced.values() for row in rows}
    for event_id, entries in facts.heard.items():
        if event_id not in committed:
            for service, entry in entries:
                if ".deliveries_reported." in entry.event_type:
                    continue  # a report is made of what was committed, when it is published
                yield _order(entry), f"{service} heard {entry.event_type} {event_id}, which nobody has committed"
    for service, dead_letter in facts.dead_letters:
        if dead_letter.event_id and dead_letter.event_id not in committed:
            yield (
                _order(dead_letter),
                f"{service} parked {dead_letter.event_type} {dead_letter.event_id}, which nobody has committed",
            )


def each_effect_happens_once(facts: Facts) -> Iterator[Finding]:
    """Each (event, reaction) took effect at most once: one inbox row, and one event of a type from one cause."""
    for event_id, entries in facts.heard.items():
        for (service, reaction), times in Counter((service, entry.reaction) for service, entry in entries).items():
            if times > 1:
                yield _order(entries[0][1]), f"{service}: {reaction} took effect {times} times for {event_id}"
    for order_id, rows in facts.announced.items():
        effects = Counter((row.caused_by, row.event_type) for row in rows if row.caused_by)
        for (cause, event_type), times in effects.items():
            if times > 1:
                yield order_id, f"{event_type} was announced {times} times because of {cause}"
        for service in conf().services:
            sequence = sorted(row.sequence for row in rows if row.event_type.startswith(f"{service}."))
            if sequence != list(range(1, len(sequence) + 1)):
                yield order_id, f"{service} counts its events {sequence}"


def every_end_is_announced(facts: Facts) -> Iterator[Finding]:
    """Once, and nothing is announced that did not happen."""
    for order in facts.orders.values():
        said = facts.said(order.pk)
        payment = facts.payments.get(order.pk, Payment(pk=order.pk))
        state = facts.shipments.get(order.pk, Shipment(pk=order.pk)).state
        expected = {
            "orders.order_placed.v2": True,
            "orders.order_completed.v1": order.status == Order.Status.COMPLETED,
            "orders.order_cancelled.v1": order.is_cancelled,
            "payments.payment_declined.v1": bool(payment.declined),
            "payments.payment_captured.v1": bool(payment.captured),
            "payments.payment_refunded.v1": bool(payment.refunded),
            "payments.capture_failed.v1": bool(payment.capture_refused),
            "shipping.shipment_delivered.v1": state == Shipment.State.DELIVERED,
            "shipping.shipment_failed.v1": state == Shipment.State.FAILED,
        }
        yield from _differences(order.pk, *((event, said[event], int(true)) for event, true in expected.items()))
        if facts.needs_a_person(order):
            continue
        if order.is_cancelled:
            given_back = said["payments.payment_voided.v1"] + said["payments.payment_refunded.v1"]
            yield from _differences(order.pk, ("the money's end", given_back, 0 if payment.declined else 1))
        answered = said["shipping.shipment_cancelled.v1"] + said["shipping.cancellation_refused.v1"]
        asked = said["orders.cancellation_requested.v1"]
        # A carrier that won't take the parcel answers in another way.
        if not asked - said["shipping.shipment_failed.v1"] <= answered <= asked:
            yield order.pk, f"asked to cancel {asked} times, answered {answered} times"


Check = Callable[[Facts], Iterator[Finding]]

AT_ANY_MOMENT: dict[str, Check] = {
    check.__name__: check for check in (nobody_is_charged_twice, nothing_is_sent_twice, never_cancelled_and_shipped)
}
ONCE_SETTLED: dict[str, Check] = {
    check.__name__: check
    for check in (
        every_order_ends,
        completed_is_paid_and_delivered,
        cancelled_leaves_nothing,
        ledger_agrees_with_the_gateway,
        shipment_agrees_with_the_carrier,
        every_event_is_published,
        every_event_is_heard,
        only_committed_events_are_heard,
        each_effect_happens_once,
        every_end_is_announced,
    )
}

#: What a broken invariant means: work is gone, or was done twice. Any other is simply violated.
LOST = {"every_event_is_published", "every_event_is_heard"}
DOUBLED = {"nobody_is_charged_twice", "nothing_is_sent_twice", "each_effect_happens_once"}


def _all(checks: dict[str, Check], facts: Facts) -> list[Violation]:
    return [Violation(name, order, detail) for name, check in checks.items() for order, detail in check(facts)]


def _differences(order_id: UUID, *facts: tuple[str, Any, Any]) -> Iterator[Finding]:
    for what, found, expected in facts:
        if found != expected:
            yield order_id, f"{what}: {found} instead of {expected}"


def _states(facts: Facts, order_id: UUID) -> list[str | None]:
    return [entry.state for entry in facts.parcels.get(order_id, [])]


def _sum(entries: list[RecordEntry], **signs: int) -> int:
    return sum(signs.get(entry.outcome, 0) * entry.amount for entry in entries)


def _grouped(things: Any, key: Callable[[Any], Any]) -> dict[Any, list[Any]]:
    groups = defaultdict(list)
    for thing in things:
        groups[key(thing)].append(thing)
    return dict(groups)
