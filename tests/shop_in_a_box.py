"""All services in one process, on a frozen clock: nothing is left out but the broker and the passing of time."""

from typing import Any
from uuid import UUID

from choreography.models import table_of
from choreography.testing import Choreography
from orders.models import Order, Product
from orders.services import Pick, place_order
from payments.gateway import gateway
from payments.models import Payment
from payments.sandbox import SandboxGateway
from shipping.carrier import carrier
from shipping.models import Shipment
from shipping.sandbox import SandboxCarrier


class Shop(Choreography):
    """The choreography, with the words a journey needs."""

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

    def order(self, order: Order) -> Order:
        """The order as it is now."""
        return Order.objects.get(pk=order.pk)

    def payment(self, order: Order) -> Payment:
        return Payment.objects.get(pk=order.pk)

    def shipment(self, order: Order) -> Shipment:
        return Shipment.objects.get(pk=order.pk)

    def announced(self, order: Order) -> list[str]:
        """Every event of an order, over all services, in the order of announcement."""
        rows: list[tuple[Any, ...]] = []
        for service in self.services:
            outbox = table_of(service, "Outbox").objects.filter(subject=order.pk)
            rows += outbox.values_list("announced_at", "event_id", "event_type")
        return [event_type for _, _, event_type in sorted(rows)]

    def letters(self, service: str) -> list[Any]:
        """The dead letters of a service."""
        return list(table_of(service, "DeadLetter").objects.all())

    def charged(self, order_id: UUID) -> int:
        """What the gateway's own books say the customer has paid in the end."""
        amounts = {"captured": 1, "refunded": -1}
        books = gateway()
        assert isinstance(books, SandboxGateway)
        return sum(
            amounts.get(entry.outcome, 0) * entry.amount
            for entry in books.books()
            if entry.key.startswith(str(order_id))
        )

    def held(self, order_id: UUID) -> int:
        """What the gateway's own books still hold."""
        amounts = {"authorized": 1, "captured": -1, "voided": -1}
        books = gateway()
        assert isinstance(books, SandboxGateway)
        return sum(
            amounts.get(entry.outcome, 0) * entry.amount
            for entry in books.books()
            if entry.key.startswith(str(order_id))
        )

    def parcels(self, order_id: UUID) -> list[str | None]:
        """The states of an order's parcels in the carrier's own books."""
        books = carrier()
        assert isinstance(books, SandboxCarrier)
        return [entry.state for entry in books.books() if entry.key == str(order_id)]
