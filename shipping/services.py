"""What shipping can do: plan, dispatch, track and cancel.

``ask_…`` talks to the carrier, outside any transaction, and may be repeated. ``record_…`` writes what came of it and
announces it, inside one transaction.
"""

from uuid import UUID

from choreography import world
from choreography.errors import NotYet
from choreography.models import transaction_of
from choreography.outbox import announce
from shipping.carrier import Address, Booked, Tracking, Undeliverable, carrier
from shipping.events import (
    CancellationRefused,
    ShipmentCancelled,
    ShipmentDelivered,
    ShipmentDispatched,
    ShipmentFailed,
)
from shipping.models import Shipment


def plan_shipment(order_id: UUID, address: Address) -> None:
    """Note where an order goes, so that it can be sent once it is paid for. Not for a cancelled one."""
    shipment = Shipment.objects.locked(order_id)
    if shipment.state == Shipment.State.UNKNOWN:
        shipment.address, shipment.state = address, Shipment.State.PLANNED
        shipment.save()


def ask_to_book(order_id: UUID) -> Booked | Undeliverable | None:
    """Book a parcel for an order. ``None``: it is not to be sent.

    From the first question to the carrier until its answer is entered the shipment is ``dispatching``: a
    cancellation that arrives meanwhile is noted, and decided with the answer.

    Raises:
        NotYet: shipping has not heard yet where the order goes.
    """
    with transaction_of("shipping"):
        shipment = Shipment.objects.locked(order_id)
        if shipment.state == Shipment.State.UNKNOWN:
            raise NotYet(f"shipping has not heard of order {order_id} being placed")
        if shipment.state == Shipment.State.PLANNED:
            shipment.state = Shipment.State.DISPATCHING
            shipment.save()
    if shipment.state != Shipment.State.DISPATCHING:
        return None
    key = str(order_id)
    booked = carrier().find(key)
    if booked is None and shipment.cancel_requested is not None:
        return None
    return booked or carrier().book(key=key, address=shipment.address)


def record_dispatch(order_id: UUID, answer: Booked | Undeliverable | None) -> None:
    """Enter what came of booking a parcel, and with it decide a cancellation that came meanwhile."""
    shipment = Shipment.objects.locked(order_id)
    if shipment.state != Shipment.State.DISPATCHING:
        return
    match answer:
        case Booked():
            shipment.state, shipment.parcel = Shipment.State.DISPATCHED, answer.parcel
            shipment.dispatched_at = world.now()
            announce(ShipmentDispatched(parcel=answer.parcel), subject=order_id)
            if shipment.cancel_requested is not None:
                announce(CancellationRefused(reason=shipment.state), subject=order_id)
        case Undeliverable():
            shipment.end(Shipment.State.FAILED, answer.reason)
            announce(ShipmentFailed(reason=answer.reason), subject=order_id)
        case None:
            shipment.end(Shipment.State.CANCELLED, shipment.cancel_requested or "")
            announce(ShipmentCancelled(reason=shipment.reason), subject=order_id)
    shipment.save()


def cancel_shipment(order_id: UUID, reason: str) -> None:
    """Decide on a cancellation: granted while nothing was sent, refused afterwards.

    Also for an order not heard of yet: it is remembered, and then never shipped.
    """
    shipment = Shipment.objects.locked(order_id)
    if shipment.state == Shipment.State.DISPATCHING:
        shipment.cancel_requested = reason
        shipment.save()
        return
    if shipment.is_waiting:
        shipment.end(Shipment.State.CANCELLED, reason)
        shipment.save()
    if shipment.state == Shipment.State.CANCELLED:
        announce(ShipmentCancelled(reason=reason), subject=order_id)
    else:
        announce(CancellationRefused(reason=shipment.state), subject=order_id)


def close_shipment(order_id: UUID, reason: str) -> None:
    """The order has ended without a sale: never send what was not sent yet."""
    shipment = Shipment.objects.locked(order_id)
    if shipment.is_waiting:
        shipment.end(Shipment.State.CANCELLED, reason)
        shipment.save()


def record_tracking(order_id: UUID, tracking: Tracking) -> None:
    """Enter what the carrier says of a parcel. Only the first end counts."""
    shipment = Shipment.objects.locked(order_id)
    if shipment.state != Shipment.State.DISPATCHED:
        return
    if tracking is Tracking.DELIVERED:
        shipment.end(Shipment.State.DELIVERED)
        announce(ShipmentDelivered(parcel=shipment.parcel), subject=order_id)
    elif tracking is not Tracking.IN_TRANSIT:
        shipment.end(Shipment.State.FAILED, tracking.value)
        announce(ShipmentFailed(reason=tracking.value), subject=order_id)
    shipment.save()
