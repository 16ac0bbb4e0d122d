"""What shipping listens to, and what it does about it."""

from choreography.contracts import Event, Heard, Nothing
from choreography.registry import reacts_to
from shipping import services
from shipping.carrier import Address, Booked, Undeliverable, carrier
from shipping.events import CancellationRefused, ShipmentCancelled, ShipmentDispatched, ShipmentFailed


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


def _ask_to_book(event: Event[Nothing]) -> Booked | Undeliverable | None:
    return services.ask_to_book(event.subject)


@reacts_to("orders.order_placed.v1")
def plan_shipment(event: Event[OrderPlaced]) -> None:
    services.plan_shipment(event.subject, Address(**event.data.ship_to.model_dump()))


@reacts_to(
    "payments.payment_authorized.v1",
    # A tuple: mypy 2.4 takes offence at the same classes in a list.
    announces=(ShipmentDispatched, ShipmentFailed, ShipmentCancelled, CancellationRefused),
    calls=_ask_to_book,
    host=carrier,
)
def dispatch_shipment(event: Event[Nothing], answer: Booked | Undeliverable | None) -> None:
    services.record_dispatch(event.subject, answer)


@reacts_to("orders.cancellation_requested.v1", announces=[ShipmentCancelled, CancellationRefused])
def cancel_shipment(event: Event[Cancellation]) -> None:
    services.cancel_shipment(event.subject, event.data.reason)


@reacts_to("orders.order_cancelled.v1")
def close_shipment(event: Event[Cancellation]) -> None:
    services.close_shipment(event.subject, event.data.reason)
