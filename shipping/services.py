"""What shipping can do: plan, dispatch, track and cancel.

``ask_…`` calls the carrier, outside any transaction, and may be repeated. The others change a locked shipment
(``Shipment.objects.locked``) and announce it, inside one transaction. They neither load nor save.
"""

from choreography.core import clock
from choreography.core.errors import NotYet
from choreography.outbox.announcing import announce
from common.texts import as_code
from shipping.carrier import Address, Booked, Tracking, Undeliverable, carrier
from shipping.events import (
    CancellationRefused,
    ShipmentCancelled,
    ShipmentDelivered,
    ShipmentDispatched,
    ShipmentFailed,
)
from shipping.models import Shipment


def plan_shipment(shipment: Shipment, address: Address) -> None:
    """Note where an order goes, so that it can be sent once it is paid for. Not for a cancelled one."""
    if shipment.state == Shipment.State.UNKNOWN:
        shipment.address, shipment.state = address, Shipment.State.PLANNED


def prepare_to_book(shipment: Shipment) -> None:
    """A shipment that waits for payment is ``dispatching`` from now on.

    Committed before the carrier is called. Until its answer is entered, a cancellation that arrives is recorded, and
    decided with the answer.
    """
    if shipment.state == Shipment.State.PLANNED:
        shipment.state = Shipment.State.DISPATCHING


def ask_to_book(shipment: Shipment) -> Booked | Undeliverable | None:
    """Book a parcel for a shipment after ``prepare_to_book``. ``None``: it is not to be sent.

    Raises:
        NotYet: shipping has not heard yet where the order goes.
    """
    if shipment.state == Shipment.State.UNKNOWN:
        raise NotYet(f"shipping has not heard of order {shipment.order_id} being placed")
    if shipment.state != Shipment.State.DISPATCHING:
        return None
    key = str(shipment.order_id)
    booked = carrier().find(key)
    if booked is None and shipment.cancel_requested is not None:
        return None
    return booked or carrier().book(key=key, address=shipment.address)


def record_dispatch(shipment: Shipment, answer: Booked | Undeliverable | None) -> None:
    """Enter what came of booking a parcel, and with it decide a cancellation that came meanwhile."""
    if shipment.state != Shipment.State.DISPATCHING:
        return
    order_id = shipment.order_id
    match answer:
        case Booked():
            shipment.state, shipment.parcel = Shipment.State.DISPATCHED, answer.parcel
            shipment.dispatched_at = clock.now()
            announce(ShipmentDispatched(parcel=answer.parcel), subject=order_id)
            if shipment.cancel_requested is not None:
                announce(CancellationRefused(reason=shipment.state), subject=order_id)
        case Undeliverable():
            shipment.end(Shipment.State.FAILED, as_code(answer.reason))
            announce(ShipmentFailed(reason=shipment.reason), subject=order_id)
        case None:
            shipment.end(Shipment.State.CANCELLED, shipment.cancel_requested or "")
            announce(ShipmentCancelled(reason=shipment.reason), subject=order_id)


def cancel_shipment(shipment: Shipment, reason: str) -> None:
    """Decide on a cancellation: granted while nothing was sent, refused afterwards.

    Also for an order not heard of yet: it is remembered, and then never shipped.
    """
    if shipment.state == Shipment.State.DISPATCHING:
        shipment.cancel_requested = reason
        return
    if shipment.is_waiting:
        shipment.end(Shipment.State.CANCELLED, reason)
    if shipment.state == Shipment.State.CANCELLED:
        announce(ShipmentCancelled(reason=reason), subject=shipment.order_id)
    else:
        announce(CancellationRefused(reason=shipment.state), subject=shipment.order_id)


def close_shipment(shipment: Shipment, reason: str) -> None:
    """The order has ended without a sale: never send what was not sent yet."""
    if shipment.is_waiting:
        shipment.end(Shipment.State.CANCELLED, reason)


def record_tracking(shipment: Shipment, tracking: Tracking) -> None:
    """Enter what the carrier says of a parcel. Only the first end counts."""
    if shipment.state != Shipment.State.DISPATCHED:
        return
    if tracking is Tracking.DELIVERED:
        shipment.end(Shipment.State.DELIVERED)
        announce(ShipmentDelivered(parcel=shipment.parcel), subject=shipment.order_id)
    elif tracking is not Tracking.IN_TRANSIT:
        shipment.end(Shipment.State.FAILED, tracking.value)
        announce(ShipmentFailed(reason=tracking.value), subject=shipment.order_id)
