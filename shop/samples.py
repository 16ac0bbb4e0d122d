"""The catalogue of a new shop, and five sample orders with the expected result of each."""

from collections.abc import Sequence
from dataclasses import dataclass

from django.conf import settings
from django.utils.functional import Promise
from django.utils.translation import gettext_lazy as _

from choreography.outbox.announcing import transaction_of
from orders.models import Order, Product
from orders.services import Pick, place_order, request_cancellation
from payments.gateway import gateway
from payments.sandbox import SandboxGateway
from shipping.carrier import carrier
from shipping.sandbox import SandboxCarrier

#: SKU, name, price in minor units, currency.
CATALOGUE = (
    ("TEA-GREEN", "Green tea, 250 g", 1250, "EUR"),
    ("TEA-BLACK", "Black tea, 250 g", 990, "EUR"),
    ("COFFEE", "Coffee beans, 1 kg", 1890, "EUR"),
    ("POT", "Tea pot", 3900, "EUR"),
    ("CUP", "Cup", 850, "EUR"),
    ("KETTLE", "Kettle", 6400, "EUR"),
    ("GRINDER", "Coffee grinder", 7900, "USD"),
    ("TEA-JEJU", "Jeju green tea, 100 g", 32000, "KRW"),
)


@dataclass(frozen=True)
class Ending:
    """The expected final state of an order, its payment and its shipment."""

    status: str
    """Status of the order: ``completed`` or ``cancelled``."""
    shipment: str
    """State of the shipment."""
    ledger: tuple[str, ...] = ()
    """Kinds of the ledger entries, in order. The amount of each is the order's total."""
    reason: str = ""
    """Why the order was cancelled."""
    attempts: int = 1
    """Attempts that authorizing the payment takes, at least."""

    @property
    def is_sale(self) -> bool:
        """The customer has the goods and the shop has the money."""
        return self.status == Order.Status.COMPLETED

    @property
    def is_declined(self) -> bool:
        """The payment was never authorized."""
        return not self.ledger


@dataclass(frozen=True)
class Sample:
    """A sample order."""

    title: Promise
    ending: Ending
    picks: tuple[tuple[str, int], ...]
    """SKU and quantity."""
    token: str = "tok_approved"  # noqa: S105 (a test token of the sandbox gateway)
    street: str = "Lindenstrasse 5"
    cancelled_in_flight: bool = False
    """Its cancellation is requested as soon as it is placed."""


SAMPLES = (
    Sample(
        title=_("paid and delivered"),
        picks=(("TEA-GREEN", 2), ("POT", 1)),
        ending=Ending("completed", shipment="delivered", ledger=("authorized", "captured")),
    ),
    Sample(
        title=_("card declined"),
        picks=(("KETTLE", 1),),
        token="tok_declined_funds",  # noqa: S106
        ending=Ending("cancelled", shipment="cancelled", reason="insufficient_funds"),
    ),
    Sample(
        title=_("address undeliverable"),
        picks=(("GRINDER", 1),),
        street="Undeliverable Road 13",
        ending=Ending("cancelled", shipment="failed", ledger=("authorized", "voided"), reason="no_such_address"),
    ),
    Sample(
        title=_("cancelled by a person while in flight"),
        picks=(("COFFEE", 3),),
        token="tok_slow",  # noqa: S106
        cancelled_in_flight=True,
        ending=Ending("cancelled", shipment="cancelled", ledger=("authorized", "voided"), reason="customer_request"),
    ),
    Sample(
        title=_("a gateway that fails twice and then works"),
        picks=(("TEA-JEJU", 4),),
        token="tok_fails_twice",  # noqa: S106
        ending=Ending("completed", shipment="delivered", ledger=("authorized", "captured"), attempts=3),
    ),
)


def can_be_placed() -> bool:
    """Whether every service and both sandboxes are in use. Only the sandboxes know the tokens and addresses."""
    return (
        set(settings.ALL_SERVICES) - {"journal"} <= set(settings.SERVICES)
        and isinstance(gateway(), SandboxGateway)
        and isinstance(carrier(), SandboxCarrier)
    )


def seed_catalogue() -> int:
    """Fill an empty catalogue. Returns how many products were added."""
    if Product.objects.exists():
        return 0
    products = [Product(sku=sku, name=name, price=price, currency=currency) for sku, name, price, currency in CATALOGUE]
    return len(Product.objects.bulk_create(products))


def place(samples: Sequence[Sample] = SAMPLES) -> list[Order]:
    """Place the samples, all or none.

    Raises:
        ValidationError: a product among them is no longer sold, or its price or currency has changed so much that
            the order can't be placed.
    """
    with transaction_of("orders"):
        return [_place(sample) for sample in samples]


def _place(sample: Sample) -> Order:
    order = Order(
        customer_name="Ada Sample",
        customer_email="ada@example.org",
        street=sample.street,
        city="Bonn",
        postal_code="53111",
        country="DE",
        payment_token=sample.token,
    )
    place_order(order, [Pick(_product(sku), quantity) for sku, quantity in sample.picks])
    if sample.cancelled_in_flight:
        request_cancellation(order.pk)
    return order


def _product(sku: str) -> Product:
    """A product of the catalogue, created again if it was deleted."""
    name, price, currency = next(entry[1:] for entry in CATALOGUE if entry[0] == sku)
    return Product.objects.get_or_create(sku=sku, defaults={"name": name, "price": price, "currency": currency})[0]
