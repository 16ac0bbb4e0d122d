"""Orders' own tables, and what may happen to an order."""

from datetime import datetime
from typing import ClassVar, Self
from uuid import UUID

from django.core.exceptions import ValidationError
from django.core.validators import MaxValueValidator, MinValueValidator, RegexValidator
from django.db import models
from django.db.models import Case, F, Q, Value, When
from django.utils.translation import gettext_lazy as _

from choreography import models as choreography
from choreography.core import clock
from choreography.core.errors import ChoreographyError, Unusable
from orders import money

#: Bounds that keep every sum far below 2**53, the largest integer every JSON reader gets right.
MAX_PRICE = 10**9
MAX_QUANTITY = 1000
MAX_TOTAL = 10**11


class UnknownOrder(Unusable):
    """An event is about an order that was never placed here. No retry will make it exist."""


class OrderFinished(ChoreographyError):
    """What was asked of the order can't happen any more: it is completed or cancelled."""


class CancellationPending(ChoreographyError):
    """A cancellation was asked for already and is not decided yet."""


def known_currency(code: str) -> None:
    """Refuse what is not the ISO 4217 code of a currency in use."""
    if code not in money.currencies():
        raise ValidationError(
            _("%(code)s is not a currency in use. Give an ISO 4217 code such as EUR."), params={"code": code}
        )


def known_country(code: str) -> None:
    """Refuse what is not an ISO 3166-1 alpha-2 code."""
    if code not in money.countries():
        raise ValidationError(_("%(code)s is not a country. Give an ISO 3166 code such as DE."), params={"code": code})


#: At least one letter or digit, and no control characters (a pasted line break, say).
_readable = RegexValidator(r"^(?=.*\w)[^\x00-\x1f\x7f]*$", _("Write it on one line, with letters or digits."))


class Product(models.Model):
    """Something a customer can order."""

    sku = models.CharField(_("SKU"), max_length=40, unique=True)
    name = models.CharField(_("name"), max_length=120)
    price = models.PositiveBigIntegerField(
        _("price"),
        validators=[MinValueValidator(1), MaxValueValidator(MAX_PRICE)],
        help_text=_("In minor units: 1999 is 19.99 EUR, and 1999 KRW is 1999 won."),
    )
    currency = models.CharField(_("currency"), max_length=3, validators=[known_currency])
    active = models.BooleanField(_("active"), default=True, help_text=_("Only active products can be ordered."))

    class Meta:
        verbose_name = _("product")
        verbose_name_plural = _("products")
        ordering: ClassVar = ["name"]
        constraints: ClassVar = [
            models.CheckConstraint(condition=Q(price__gte=1, price__lte=MAX_PRICE), name="orders_product_price_sane"),
        ]

    def __str__(self) -> str:
        return f"{self.name} ({money.display(self.price, self.currency)})"


class OrderQuerySet(choreography.SubjectQuerySet["Order"]):
    def missing(self, key: UUID) -> "Order":
        """An event can't be about an order that does not exist.

        Raises:
            UnknownOrder: always.
        """
        raise UnknownOrder(f"orders has no order {key}")

    def unpaid_since(self, moment: datetime) -> Self:
        """Orders placed before ``moment`` of which payments has said nothing good, not being cancelled yet."""
        return self.filter(status=Order.Status.PLACED, placed_at__lt=moment)


class Order(models.Model):
    """An order and what orders has heard of it.

    The facts are kept as they were heard, in whatever order they arrive; the status follows from them, worked out
    by the database, so that the two can't disagree.
    """

    class Status(models.TextChoices):
        PLACED = "placed", _("placed")
        AUTHORIZED = "authorized", _("authorized")
        DISPATCHED = "dispatched", _("dispatched")
        COMPLETED = "completed", _("completed")
        CANCELLING = "cancelling", _("cancelling")
        CANCELLED = "cancelled", _("cancelled")

    id = models.UUIDField(_("order"), primary_key=True, default=clock.new_id, editable=False)
    submission = models.UUIDField(
        _("submission"), unique=True, null=True, editable=False, help_text=_("The form it came from, sent once.")
    )
    placed_at = models.DateTimeField(_("placed at"), default=clock.now, editable=False)

    customer_name = models.CharField(_("customer"), max_length=120, validators=[_readable])
    given_name = models.CharField(
        _("given name"),
        max_length=60,
        blank=True,
        default="",
        db_default="",
        validators=[_readable],
        help_text=_("By which to greet."),
    )
    family_name = models.CharField(
        _("family name"),
        max_length=60,
        blank=True,
        default="",
        db_default="",
        validators=[_readable],
        help_text=_("By which to sort."),
    )
    customer_email = models.EmailField(_("e-mail"))
    street = models.CharField(_("street"), max_length=200, validators=[_readable])
    city = models.CharField(_("city"), max_length=120, validators=[_readable])
    postal_code = models.CharField(
        _("postal code"),
        max_length=12,
        blank=True,
        validators=[RegexValidator(r"^[A-Za-z0-9][A-Za-z0-9 \-]*$", _("Letters, digits, spaces and hyphens only."))],
    )
    country = models.CharField(_("country"), max_length=2, validators=[known_country])
    payment_token = models.CharField(
        _("payment token"), max_length=100, validators=[RegexValidator(r"^\w+$", _("Letters, digits and _ only."))]
    )

    currency = models.CharField(_("currency"), max_length=3, validators=[known_currency], editable=False)
    total = models.PositiveBigIntegerField(_("total"), editable=False)

    authorized_at = models.DateTimeField(_("payment authorized"), null=True, editable=False)
    captured_at = models.DateTimeField(_("payment captured"), null=True, editable=False)
    released_at = models.DateTimeField(_("payment given back"), null=True, editable=False)
    released = models.PositiveBigIntegerField(_("amount given back"), null=True, editable=False)
    dispatched_at = models.DateTimeField(_("dispatched"), null=True, editable=False)
    parcel = models.CharField(_("parcel"), max_length=100, blank=True, editable=False)
    delivered_at = models.DateTimeField(_("delivered"), null=True, editable=False)
    cancel_requested_at = models.DateTimeField(_("cancellation requested"), null=True, editable=False)
    cancelled_at = models.DateTimeField(_("cancelled"), null=True, editable=False)
    reason = models.CharField(_("reason"), max_length=100, blank=True, editable=False)
    attention = models.CharField(
        _("needs a person"), max_length=200, blank=True, editable=False, help_text=_("Why, if it does.")
    )

    status = models.GeneratedField(
        verbose_name=_("status"),
        expression=Case(
            When(cancelled_at__isnull=False, then=Value(Status.CANCELLED)),
            When(delivered_at__isnull=False, captured_at__isnull=False, then=Value(Status.COMPLETED)),
            When(cancel_requested_at__isnull=False, then=Value(Status.CANCELLING)),
            When(Q(dispatched_at__isnull=False) | Q(delivered_at__isnull=False), then=Value(Status.DISPATCHED)),
            When(authorized_at__isnull=False, then=Value(Status.AUTHORIZED)),
            default=Value(Status.PLACED),
        ),
        output_field=models.CharField(max_length=10, choices=Status.choices),
        db_persist=True,
    )

    objects = OrderQuerySet.as_manager()

    class Meta:
        verbose_name = _("order")
        verbose_name_plural = _("orders")
        ordering: ClassVar = ["-placed_at"]
        default_permissions = ("add", "view")
        permissions: ClassVar = [("cancel_order", _("Can ask for an order to be cancelled"))]
        indexes: ClassVar = [models.Index(fields=["status", "placed_at"], name="orders_order_by_status")]
        constraints: ClassVar = [
            models.CheckConstraint(condition=Q(total__gte=1, total__lte=MAX_TOTAL), name="orders_order_total_sane"),
            models.CheckConstraint(
                condition=Q(cancelled_at=None) | Q(delivered_at=None), name="orders_order_never_cancelled_and_delivered"
            ),
            models.CheckConstraint(
                condition=Q(released=None) | Q(released__lte=F("total")),
                name="orders_order_gives_back_no_more_than_total",
            ),
        ]

    def __str__(self) -> str:
        return self.number

    @property
    def number(self) -> str:
        """The order's id as people say it: its last eight digits."""
        return self.id.hex[-8:].upper()

    @property
    def is_completed(self) -> bool:
        return self.delivered_at is not None and self.captured_at is not None

    @property
    def is_cancelled(self) -> bool:
        return self.cancelled_at is not None

    def request_cancellation(self, reason: str) -> None:
        """Lock the order until shipping has decided.

        Raises:
            OrderFinished: it is completed or cancelled.
            CancellationPending: it is being cancelled.
        """
        if self.is_cancelled:
            raise OrderFinished(_("Order %s is cancelled already.") % self.number)
        if self.is_completed:
            raise OrderFinished(_("Order %s is completed: it was delivered and paid for.") % self.number)
        if self.cancel_requested_at is not None:
            raise CancellationPending(_("The cancellation of order %s is being decided already.") % self.number)
        self.cancel_requested_at, self.reason = clock.now(), reason

    def cancel(self, reason: str, at: datetime) -> None:
        """End the order without a sale.

        Raises:
            OrderFinished: it ended before.
        """
        if self.is_cancelled or self.delivered_at is not None:
            raise OrderFinished(_("Order %s has ended already.") % self.number)
        self.cancelled_at, self.reason, self.attention = at, reason, ""

    def resume(self) -> None:
        """The cancellation was refused: go on as if nobody had asked."""
        self.cancel_requested_at = None
        if not self.is_cancelled:
            self.reason = ""


class OrderLine(models.Model):
    """A product in an order, at the price it had when the order was placed."""

    order = models.ForeignKey(Order, verbose_name=_("order"), on_delete=models.CASCADE, related_name="lines")
    product = models.ForeignKey(Product, verbose_name=_("product"), on_delete=models.PROTECT, related_name="+")
    quantity = models.PositiveIntegerField(
        _("quantity"), default=1, validators=[MinValueValidator(1), MaxValueValidator(MAX_QUANTITY)]
    )
    sku = models.CharField(_("SKU"), max_length=40, editable=False)
    name = models.CharField(_("name"), max_length=120, editable=False)
    unit_price = models.PositiveBigIntegerField(_("unit price"), editable=False)

    class Meta:
        verbose_name = _("line")
        verbose_name_plural = _("lines")
        default_permissions = ("add", "view")
        constraints: ClassVar = [
            models.CheckConstraint(
                condition=Q(quantity__gte=1, quantity__lte=MAX_QUANTITY), name="orders_line_quantity_sane"
            ),
        ]

    def __str__(self) -> str:
        return f"{self.quantity} x {self.name}"


class Outbox(choreography.Outbox):
    """What orders has announced."""


class SubjectCounter(choreography.SubjectCounter):
    """The last sequence of orders whose events were purged."""


class Inbox(choreography.Inbox):
    """What orders has heard."""


class DeadLetter(choreography.DeadLetter):
    """What orders could not handle."""


class Retry(choreography.Retry):
    """What orders has on its retry ladder."""


class Claim(choreography.Claim):
    """What orders is calling external systems for, and the timers it runs."""


class Suspect(choreography.Suspect):
    """What may have ended a worker of orders."""


class Report(choreography.Report):
    """What became of deliveries to orders, still to be announced."""


class Redrive(choreography.Redrive):
    """Dead letters of orders that are sent again, group by group."""


class DeadLetterAction(choreography.DeadLetterAction):
    """What people have done to the dead letters of orders."""
