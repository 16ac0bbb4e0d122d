"""What shipping listens to, and what it does about it."""

from collections.abc import Callable, Sequence

from choreography.events.messages import Event, Heard, Nothing
from choreography.events.registry import reacts_to
from shipping import services
from shipping.carrier import Address, Booked, Undeliverable, carrier
from shipping.events import CancellationRefused, ShipmentCancelled, ShipmentDispatched, ShipmentFailed
from shipping.models import Shipment


class ShipTo(Heard):
    name: str
    street: str
    city: str
    postal_code: str
    country: str


class OrderPlaced(Heard):
    ship_to: ShipTo


class Cancellation(Heard):
    reason: str


def _ask_to_book(
    events: Sequence[Event[Nothing]],
) -> Callable[[Event[Nothing]], Booked | Undeliverable | None]:
    shipments = {it.order_id: it for it in services.prepare_to_book(event.subject for event in events)}
    return lambda event: services.ask_to_book(shipments[event.subject])


@reacts_to("orders.order_placed.v1", grouped=True)
def plan_shipment(events: Sequence[Event[OrderPlaced]]) -> None:
    with Shipment.objects.held(event.subject for event in events) as shipments:
        for shipment, event in zip(shipments, events, strict=True):
            services.plan_shipment(shipment, Address(**event.data.ship_to.model_dump()))


@reacts_to(
    "payments.payment_authorized.v1",
    # A tuple: mypy 2.4 takes offence at the same classes in a list.
    announces=(ShipmentDispatched, ShipmentFailed, ShipmentCancelled, CancellationRefused),
    calls=_ask_to_book,
    host=carrier,
    grouped=True,
)
def dispatch_shipment(events: Sequence[Event[Nothing]], answers: Sequence[Booked | Undeliverable | None]) -> None:
    with Shipment.objects.held(event.subject for event in events) as shipments:
        for shipment, answer in zip(shipments, answers, strict=True):
            services.record_dispatch(shipment, answer)


@reacts_to("orders.cancellation_requested.v1", announces=[ShipmentCancelled, CancellationRefused])
def cancel_shipment(event: Event[Cancellation]) -> None:
    with Shipment.objects.held([event.subject]) as [shipment]:
        services.cancel_shipment(shipment, event.data.reason)


@reacts_to("orders.order_cancelled.v1")
def close_shipment(event: Event[Cancellation]) -> None:
    with Shipment.objects.held([event.subject]) as [shipment]:
        services.close_shipment(shipment, event.data.reason)
