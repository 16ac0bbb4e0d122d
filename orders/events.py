"""The facts orders announces: its published contract. A published version never changes shape."""

from pydantic import BaseModel, ConfigDict, Field

from choreography import PERSONAL, SEARCHABLE, Announced, downcasts
from common.money import Amount, Currency
from common.texts import Code, Country, Name, PostalCode, Street


class Part(BaseModel):
    """Base of what is inside an event."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class Line(Part):
    sku: str = Field(description="the product's stock keeping unit")
    name: str = Field(description="the product's name when the order was placed")
    quantity: int = Field(ge=1, description="how many")
    unit_price: Amount = Field(description="price of one when the order was placed, in minor units")


class ShipTo(Part):
    name: Name = Field(description="who receives the parcel", json_schema_extra=PERSONAL)
    street: Street = Field(description="street and house number", json_schema_extra=PERSONAL)
    city: Name = Field(description="city", json_schema_extra=PERSONAL)
    postal_code: PostalCode = Field(description="postal code, empty where there is none", json_schema_extra=PERSONAL)
    country: Country = Field(description="ISO 3166-1 alpha-2 code")


class OrderPlaced(Announced, type="orders.order_placed.v1"):
    """A customer has placed an order and named a means of payment."""

    currency: Currency = Field(description="ISO 4217 code of every amount in this event")
    total: Amount = Field(description="what the customer is to pay, in minor units")
    lines: tuple[Line, ...] = Field(min_length=1, description="what was ordered")
    payment_token: str = Field(
        description="the payment provider's token for the customer's means of payment", json_schema_extra=PERSONAL
    )
    ship_to: ShipTo = Field(description="where the parcel goes")
    customer_email: str | None = Field(
        default=None, description="by which people find the order's flow", json_schema_extra=PERSONAL | SEARCHABLE
    )


class PersonName(Part):
    full: Name = Field(min_length=1, description="as the customer writes it, for a label", json_schema_extra=PERSONAL)
    given: str | None = Field(default=None, description="by which to greet, if known", json_schema_extra=PERSONAL)
    family: str | None = Field(default=None, description="by which to sort, if known", json_schema_extra=PERSONAL)


class Customer(Part):
    name: PersonName = Field(description="who placed the order and receives the parcel")
    email: str | None = Field(
        default=None, description="by which people find the order's flow", json_schema_extra=PERSONAL | SEARCHABLE
    )


class LineV2(Line):
    amount: Amount = Field(description="price of all of them, in minor units")


class Address(Part):
    street: Street = Field(description="street and house number", json_schema_extra=PERSONAL)
    city: Name = Field(description="city", json_schema_extra=PERSONAL)
    postal_code: PostalCode = Field(description="postal code, empty where there is none", json_schema_extra=PERSONAL)
    country: Country = Field(description="ISO 3166-1 alpha-2 code")


class OrderPlacedV2(Announced, type="orders.order_placed.v2"):
    """A customer has placed an order and named a means of payment."""

    currency: Currency = Field(description="ISO 4217 code of every amount in this event")
    total: Amount = Field(description="what the customer is to pay, in minor units")
    lines: tuple[LineV2, ...] = Field(min_length=1, description="what was ordered")
    payment_token: str = Field(
        description="the payment provider's token for the customer's means of payment", json_schema_extra=PERSONAL
    )
    customer: Customer = Field(description="who placed the order")
    ship_to: Address = Field(description="where the parcel goes")


@downcasts
def order_placed_v1(fact: OrderPlacedV2) -> OrderPlaced:
    return OrderPlaced(
        currency=fact.currency,
        total=fact.total,
        lines=tuple(Line(**line.model_dump(exclude={"amount"})) for line in fact.lines),
        payment_token=fact.payment_token,
        ship_to=ShipTo(name=fact.customer.name.full, **fact.ship_to.model_dump()),
        customer_email=fact.customer.email,
    )


class CancellationRequested(Announced, type="orders.cancellation_requested.v1"):
    """Someone wants the order cancelled. Shipping decides whether it still can be."""

    reason: Code = Field(description="a code: customer_request, not_paid_in_time, authorization_expired")


class OrderCancelled(Announced, type="orders.order_cancelled.v1"):
    """The order has ended without a sale. Whatever was held or taken for it must be given back."""

    reason: Code = Field(description="a code for why, as the service that caused it gave it")


class OrderCompleted(Announced, type="orders.order_completed.v1"):
    """The parcel was delivered and the money taken."""

    currency: Currency = Field(description="ISO 4217 code")
    total: Amount = Field(description="what the customer paid, in minor units")
