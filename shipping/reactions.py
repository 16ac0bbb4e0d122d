"""What shipping listens to, and what it does about it."""

from datetime import timedelta

from choreography import Event, Heard, Nothing, compensates, expect, never_both, reacts_to, upcasts
from common.texts import Code, Country, Name, PostalCode, Street
from shipping import services
from shipping.carrier import Address, Booked, Undeliverable, carrier
from shipping.events import (
    CancellationRefused,
    ShipmentCancelled,
    ShipmentDelivered,
    ShipmentDispatched,
    ShipmentFailed,
)
from shipping.models import Shipment


class PersonName(Heard):
    full: Name


class Customer(Heard):
    name: PersonName


class ShipTo(Heard):
    street: Street
    city: Name
    postal_code: PostalCode
    country: Country


class OrderPlaced(Heard):
    customer: Customer
    ship_to: ShipTo


class ShipToV1(ShipTo):
    name: Name


class OrderPlacedV1(Heard):
    ship_to: ShipToV1


@upcasts("orders.order_placed.v1")
def order_placed_v1(old: OrderPlacedV1) -> OrderPlaced:
    """The recipient's name was part of the address."""
    ship_to = ShipTo(**old.ship_to.model_dump(exclude={"name"}))
    return OrderPlaced(customer=Customer(name=PersonName(full=old.ship_to.name)), ship_to=ship_to)


class Cancellation(Heard):
    reason: Code


@reacts_to("orders.order_placed.v2", rows=Shipment.objects)
def plan_shipment(shipment: Shipment, event: Event[OrderPlaced]) -> None:
    address = Address(name=event.data.customer.name.full, **event.data.ship_to.model_dump())
    services.plan_shipment(shipment, address)


@reacts_to(
    "payments.payment_authorized.v1",
    rows=Shipment.objects,
    prepare=lambda shipment, event: services.prepare_to_book(shipment),
    ask=lambda shipment, event: services.ask_to_book(shipment),
    external_system=carrier,
    # A tuple: mypy 2.4 rejects the same classes in a list.
    announces=(ShipmentDispatched, ShipmentFailed, ShipmentCancelled, CancellationRefused),
)
def dispatch_shipment(shipment: Shipment, event: Event[Nothing], answer: Booked | Undeliverable | None) -> None:
    services.record_dispatch(shipment, answer)


@reacts_to(
    "orders.cancellation_requested.v1", rows=Shipment.objects, announces=[ShipmentCancelled, CancellationRefused]
)
def cancel_shipment(shipment: Shipment, event: Event[Cancellation]) -> None:
    services.cancel_shipment(shipment, event.data.reason)


@reacts_to("orders.order_cancelled.v1", rows=Shipment.objects)
def close_shipment(shipment: Shipment, event: Event[Cancellation]) -> None:
    services.close_shipment(shipment, event.data.reason)


# --- What must follow -------------------------------------------------------------------------------------------------

expect(
    "payments.payment_authorized.v1",
    one_of=[ShipmentDispatched, ShipmentFailed, ShipmentCancelled],
    within=45,
)
expect("orders.cancellation_requested.v1", one_of=[ShipmentCancelled, CancellationRefused, ShipmentFailed], within=45)
expect(ShipmentDispatched, one_of=[ShipmentDelivered, ShipmentFailed], within=timedelta(days=14))

never_both(ShipmentDispatched, ShipmentCancelled)
compensates(ShipmentCancelled)
