"""Checks the final state of an order: the services' tables and the sandboxes' own records against the expected ending.

Each function yields a message for every difference, and changes nothing.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

from django.db.models import Q
from django.utils.translation import gettext as _

from choreography.core.conf import conf
from choreography.events.registry import reaction_to
from choreography.storage.tables import ServiceTables
from orders.models import Order
from payments.gateway import gateway
from payments.models import Entry, Payment
from payments.sandbox import RecordEntry, SandboxGateway
from shipping.carrier import Tracking, carrier
from shipping.models import Shipment
from shipping.sandbox import ParcelEntry, SandboxCarrier
from shop.flows import Step
from shop.samples import Ending


def has_ended(order_id: UUID) -> bool:
    """Whether the order is completed or cancelled, and every event of it is published and handled."""
    ended = Order.objects.filter(pk=order_id, status__in=[Order.Status.COMPLETED, Order.Status.CANCELLED])
    return ended.exists() and not any(loose_ends(order_id))


def faults(order_id: UUID, ending: Ending) -> list[str]:
    """Every difference between an order and the expected ending. Empty if there is none."""
    order = Order.objects.get(pk=order_id)
    return [
        *order_faults(order, ending),
        *ledger_faults(order, ending),
        *gateway_faults(order, ending),
        *shipment_faults(order, ending),
        *carrier_faults(order, ending),
        *attempt_faults(order, ending),
        *loose_ends(order_id),
    ]


def order_faults(order: Order, ending: Ending) -> Iterator[str]:
    """Checks the order itself."""
    given_back = order.total if "voided" in ending.ledger else None
    yield from _difference(_("the order's status"), order.status, ending.status)
    yield from _difference(_("the reason"), order.reason, ending.reason)
    yield from _difference(_("the amount given back, as orders heard"), order.released, given_back)
    yield from _difference(_("what needs a person"), order.attention, "")


def ledger_faults(order: Order, ending: Ending) -> Iterator[str]:
    """Checks the ledger of payments: the entries, and the sums in the payment."""
    payment = Payment.objects.filter(pk=order.pk).first()
    if payment is None:
        yield _("payments has no ledger for the order")
        return
    entries = list(payment.entries.all())
    expected = [(kind, order.total) for kind in ending.ledger]
    yield from _difference(_("the ledger"), [(entry.kind, entry.amount) for entry in entries], expected)
    sums = Counter[str]()
    for entry in entries:
        sums[entry.kind] += entry.amount
    for kind in Entry.Kind.values:
        yield from _difference(_("the sum %s") % kind, getattr(payment, kind), sums[kind])
    yield from _difference(_("what payments still holds"), payment.held, 0)
    yield from _difference(_("what payments keeps"), payment.kept, order.total if ending.is_sale else 0)
    yield from _difference(_("the currency"), payment.currency, order.currency)
    yield from _difference(_("why it was declined"), payment.declined, ending.reason if ending.is_declined else "")


def gateway_faults(order: Order, ending: Ending) -> Iterator[str]:
    """Checks the payment provider's own records, against the ending and against the ledger, key by key."""
    booked = [entry for entry in _gateway_records() if entry.key.startswith(f"{order.pk}:")]
    moves = {entry.key: (entry.outcome, entry.amount, entry.currency) for entry in booked if entry.amount}
    entries = Entry.objects.filter(payment=order.pk)
    ledger = {entry.key: (entry.kind, entry.amount, order.currency) for entry in entries}
    for key in sorted(moves.keys() | ledger.keys()):
        yield from _difference(_("the gateway's record of %s") % key, moves.get(key), ledger.get(key))
    sums = Counter[str]()
    for entry in booked:
        sums[entry.outcome] += entry.amount
    charged = sums["captured"] - sums["refunded"]
    held = sums["authorized"] - sums["captured"] - sums["voided"]
    yield from _difference(_("what the gateway has charged"), charged, order.total if ending.is_sale else 0)
    yield from _difference(_("what the gateway still holds"), held, 0)
    declined = [entry.reason for entry in booked if entry.outcome == "declined"]
    yield from _difference(_("what the gateway declined"), declined, [ending.reason] if ending.is_declined else [])


def shipment_faults(order: Order, ending: Ending) -> Iterator[str]:
    """Checks the shipment."""
    shipment = Shipment.objects.filter(pk=order.pk).first()
    if shipment is None:
        yield _("shipping has no shipment for the order")
        return
    yield from _difference(_("the shipment"), shipment.state, ending.shipment)
    yield from _difference(_("the parcel's name, as orders heard"), order.parcel, shipment.parcel)


def carrier_faults(order: Order, ending: Ending) -> Iterator[str]:
    """Checks the carrier's own records: one delivered parcel for a sale, else no parcel in transit."""
    parcels = [entry for entry in _carrier_records() if entry.key == str(order.pk) and entry.parcel]
    delivered = [entry.parcel for entry in parcels if entry.state is Tracking.DELIVERED]
    on_its_way = [entry.parcel for entry in parcels if entry.state is Tracking.IN_TRANSIT]
    expected = [order.parcel] if ending.is_sale else []
    yield from _difference(_("what the carrier has delivered"), delivered, expected)
    yield from _difference(_("what the carrier has on its way"), on_its_way, [])


def attempt_faults(order: Order, ending: Ending) -> Iterator[str]:
    """Checks that an authorization that failed at first was retried."""
    inbox = ServiceTables("payments").inbox
    attempts = list(inbox.filter(subject=order.pk, reaction="payments.authorize_payment").values_list("attempts"))
    if len(attempts) != 1 or attempts[0][0] < ending.attempts:
        yield _("authorizing took %(found)s attempts instead of %(expected)d or more") % {
            "found": [number for (number,) in attempts],
            "expected": ending.attempts,
        }


def loose_ends(order_id: UUID) -> Iterator[str]:
    """Events of an order that are not published, or not handled by every reaction to them."""
    for service in conf().services:
        for row in ServiceTables(service).outbox.filter(subject=order_id):
            if row.published_at is None:
                yield _("%(event)s is not published") % {"event": row.event_type}
            yield from _unhandled(row.event_type, row.fact_id or row.event_id)


def dead_letter_faults(order_ids: Sequence[UUID], since: datetime) -> Iterator[str]:
    """Dead letters about these orders, and all that were parked after ``since``."""
    for service in conf().services:
        dead_letters = ServiceTables(service).dead_letters
        for dead_letter in dead_letters.filter(Q(subject__in=order_ids) | Q(parked_at__gte=since)):
            yield _("%(service)s has a dead letter: %(dead_letter)s") % {"service": service, "dead_letter": dead_letter}


def flower_faults(
    workers: Mapping[str, bool], tasks: Iterable[Mapping[str, Any]], flows: Mapping[UUID, Sequence[Step]]
) -> Iterator[str]:
    """What Flower does not show and should: a worker per service, a task per reaction, the retries.

    Args:
        workers: name -> online, as Flower's API returns it.
        tasks: with ``name``, ``state`` and ``retried`` (a time or null), as Flower's API returns it.
        flows: the steps of each order.
    """
    tasks = list(tasks)
    online = {name.partition("@")[0] for name, is_online in workers.items() if is_online}
    for service in sorted(set(conf().services) - online):
        yield _("Flower shows no worker %s@...") % service
    steps = [step for flow in flows.values() for step in flow if step.reaction]
    done = {task["name"] for task in tasks if task["state"] == "SUCCESS"}
    for reaction in sorted({step.reaction for step in steps} - done):
        yield _("Flower shows no task %s that succeeded") % reaction
    retried = {task["name"] for task in tasks if task["retried"]}
    for reaction in sorted({step.reaction for step in steps if step.attempts > 1} - retried):
        yield _("Flower shows no RETRY of %s") % reaction


def _unhandled(event_type: str, fact_id: UUID) -> Iterator[str]:
    for service in conf().services:
        reaction = reaction_to(service, event_type)
        if reaction is None:
            continue
        inbox = ServiceTables(service).inbox
        if not inbox.filter(event_id=fact_id, reaction=reaction.name).exists():
            yield _("%(reaction)s has not heard %(event)s") % {"reaction": reaction.name, "event": event_type}


def _gateway_records() -> list[RecordEntry]:
    provider = gateway()
    if not isinstance(provider, SandboxGateway):
        raise TypeError("only the sandbox gateway has records that can be read")
    return provider.records()


def _carrier_records() -> list[ParcelEntry]:
    provider = carrier()
    if not isinstance(provider, SandboxCarrier):
        raise TypeError("only the sandbox carrier has records that can be read")
    return provider.records()


def _difference(what: str, found: object, expected: object) -> Iterator[str]:
    if found != expected:
        yield _("%(what)s: %(found)s instead of %(expected)s") % {
            "what": what,
            "found": _plain(found),
            "expected": _plain(expected),
        }


def _plain(value: object) -> str:
    if value in ("", None, []):
        return _("nothing")
    if isinstance(value, list):
        return ", ".join(map(_plain, value))
    if isinstance(value, tuple):
        return " ".join(map(str, value))
    return str(value)
