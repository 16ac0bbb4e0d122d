"""What orders can do. Each function changes one order and announces what became true, in one transaction.

Those that take an order are called inside a transaction, with an order that is locked (``Order.objects.locked``). They
neither load nor save.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from django.core.exceptions import ValidationError
from django.db import IntegrityError
from django.utils.translation import gettext_lazy as _
from django.utils.translation import ngettext_lazy

from choreography.outbox.announcing import announce, transaction_of
from choreography.storage.bulk import insert_all
from choreography.storage.tables import ServiceTables
from orders import money
from orders.events import (
    Address,
    CancellationRequested,
    Customer,
    LineV2,
    OrderCancelled,
    OrderCompleted,
    OrderPlacedV2,
    PersonName,
)
from orders.models import MAX_QUANTITY, MAX_TOTAL, Order, OrderFinished, OrderLine, Product

#: More lines than anyone picks by hand.
MAX_LINES = 100


class SubmittedTwice(Exception):
    """The same form came again. ``order`` is the one it made the first time."""

    def __init__(self, order: Order) -> None:
        super().__init__(str(_("This form was sent already: it made order %s.") % order.number))
        self.order = order


@dataclass(frozen=True)
class Pick:
    """So many of a product."""

    product: Product
    quantity: int


def price(picks: Sequence[Pick]) -> tuple[int, str]:
    """What these come to: an amount in minor units and its currency.

    Raises:
        ValidationError: no lines or too many, a quantity out of range, an inactive product, an unknown currency or
            more than one, a sum too large. One message for each fault.
    """
    # As they were picked, too: merged, a negative quantity would only make another one smaller.
    faults = list(_faults(picks)) or list(_faults(_merged(picks)))
    if faults:
        raise ValidationError(faults)
    return sum(pick.product.price * pick.quantity for pick in picks), picks[0].product.currency


def place_order(order: Order, picks: Sequence[Pick]) -> Order:
    """Place an order: store it with its lines and announce it. Needs nothing but the orders database.

    Args:
        order: not saved yet, with customer, address and payment token; ``submission`` identifies the form.
        picks: what is ordered; two of one product become one line.

    Raises:
        ValidationError: the order or its lines are not in order; nothing was stored.
        SubmittedTwice: this ``submission`` made an order before; nothing was stored.
    """
    order.total, order.currency = price(picks)
    picks = _merged(picks)
    # The database checks its constraints itself, in the transaction below.
    order.full_clean(validate_unique=False, validate_constraints=False)
    try:
        with transaction_of("orders"):
            insert_all([order], ServiceTables("orders").alias)
            insert_all([_line(order, pick) for pick in picks], ServiceTables("orders").alias)
            announce(_order_placed(order, picks), subject=order.id)
    except IntegrityError:
        twin = Order.objects.filter(submission=order.submission).first() if order.submission else None
        if twin is None:
            raise
        raise SubmittedTwice(twin) from None
    return order


def request_cancellation(order_id: UUID, reason: str = "customer_request") -> None:
    """Ask for an order to be cancelled. Shipping decides; until then the order is ``cancelling``.

    Raises:
        UnknownOrder: there is no such order.
        OrderFinished: it is completed or cancelled.
        CancellationPending: someone asked before.
    """
    with transaction_of("orders"), Order.objects.locked([order_id]) as [order]:
        _request_cancellation(order, reason)


def record_authorization(order: Order, at: datetime) -> None:
    """Payments holds the money."""
    order.authorized_at = at


def record_dispatch(order: Order, at: datetime, parcel: str) -> None:
    """Shipping has sent the parcel."""
    order.dispatched_at, order.parcel = at, parcel


def record_delivery(order: Order, at: datetime) -> None:
    """The customer has the parcel.

    Raises:
        OrderFinished: it was cancelled, which shipping's lock rules out.
    """
    if order.is_cancelled:
        raise OrderFinished(f"order {order.pk} was cancelled and is delivered all the same")
    order.delivered_at = at
    _announce_if_complete(order)


def record_capture(order: Order, at: datetime) -> None:
    """Payments has the money."""
    order.captured_at = at
    order.attention = ""
    _announce_if_complete(order)


def record_release(order: Order, at: datetime, amount: int) -> None:
    """Payments has given back what it held or had taken."""
    order.released_at, order.released = at, (order.released or 0) + amount


def cancel_order(order: Order, reason: str, at: datetime) -> None:
    """The order ends without a sale. A second reason to cancel changes nothing.

    Raises:
        OrderFinished: it was delivered.
    """
    if order.is_cancelled:
        return
    order.cancel(reason, at)
    announce(OrderCancelled(reason=reason), subject=order.id)


def ask_for_attention(order: Order, why: str) -> None:
    """Only a person can bring this order to its end, unless it has come to one."""
    if not order.is_cancelled:
        order.attention = why


def cancel_if_open(order: Order, reason: str) -> None:
    """Ask for a cancellation, unless the order has ended or someone asked before."""
    if not (order.is_cancelled or order.is_completed or order.cancel_requested_at is not None):
        _request_cancellation(order, reason)


def cancel_if_unpaid(order: Order) -> None:
    """Ask for a cancellation, unless payments has said something meanwhile, or someone asked before."""
    if order.status == Order.Status.PLACED:
        _request_cancellation(order, "not_paid_in_time")


def _request_cancellation(order: Order, reason: str) -> None:
    order.request_cancellation(reason)
    announce(CancellationRequested(reason=reason), subject=order.id)


def _announce_if_complete(order: Order) -> None:
    """Delivered and paid for, in whichever order: then the order is complete, and says so once."""
    if order.is_completed:
        announce(OrderCompleted(currency=order.currency, total=order.total), subject=order.id)


def _merged(picks: Iterable[Pick]) -> list[Pick]:
    quantities: dict[Product, int] = {}
    for pick in picks:
        quantities[pick.product] = quantities.get(pick.product, 0) + pick.quantity
    return [Pick(product, quantity) for product, quantity in quantities.items()]


def _faults(picks: Sequence[Pick]) -> Iterable[ValidationError]:
    if not picks:
        yield ValidationError(_("Add at least one line: an order needs something to ship."), code="no_lines")
        return
    if len(picks) > MAX_LINES:
        yield ValidationError(
            ngettext_lazy("At most %(max)d line.", "At most %(max)d lines.", "max"),
            code="lines",
            params={"max": MAX_LINES},
        )
    for pick in picks:
        if not 1 <= pick.quantity <= MAX_QUANTITY:
            yield ValidationError(
                _("%(name)s: the quantity is %(quantity)d. Give a number from 1 to %(max)d."),
                code="quantity",
                params={"name": pick.product.name, "quantity": pick.quantity, "max": MAX_QUANTITY},
            )
        if not pick.product.active:
            yield ValidationError(
                _("%(name)s is not sold any more. Remove the line."),
                code="inactive",
                params={"name": pick.product.name},
            )
        if pick.product.currency not in money.currencies():
            yield ValidationError(
                _("%(name)s is priced in %(currency)s, which is not a currency in use. Remove the line."),
                code="currency",
                params={"name": pick.product.name, "currency": pick.product.currency},
            )
    currencies = sorted({pick.product.currency for pick in picks})
    if len(currencies) > 1:
        yield ValidationError(
            _("The lines are in %(currencies)s. Place one order for each currency."),
            code="currencies",
            params={"currencies": ", ".join(currencies)},
        )
    elif sum(pick.product.price * pick.quantity for pick in picks) > MAX_TOTAL:
        yield ValidationError(
            _("The total is more than %(max)s. Split the order."),
            code="total",
            params={"max": money.display(MAX_TOTAL, currencies[0])},
        )


def _line(order: Order, pick: Pick) -> OrderLine:
    product = pick.product
    return OrderLine(
        order_id=order.pk,
        product_id=product.pk,
        quantity=pick.quantity,
        sku=product.sku,
        name=product.name,
        unit_price=product.price,
    )


def _order_placed(order: Order, picks: Iterable[Pick]) -> OrderPlacedV2:
    return OrderPlacedV2(
        currency=order.currency,
        total=order.total,
        lines=tuple(
            LineV2(
                sku=pick.product.sku,
                name=pick.product.name,
                quantity=pick.quantity,
                unit_price=pick.product.price,
                amount=pick.product.price * pick.quantity,
            )
            for pick in picks
        ),
        payment_token=order.payment_token,
        customer=Customer(
            name=PersonName(full=order.customer_name, given=order.given_name or None, family=order.family_name or None),
            email=order.customer_email or None,
        ),
        ship_to=Address(street=order.street, city=order.city, postal_code=order.postal_code, country=order.country),
    )
