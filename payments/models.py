"""Payments' own tables: one ledger per order, and the rules the database keeps for it."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import datetime
from typing import Any, ClassVar, Self

from django.db import models
from django.db.models import F, Q
from django.utils.translation import gettext_lazy as _

from choreography import models as choreography
from choreography.core import clock
from choreography.storage import bulk


class PaymentQuerySet(choreography.SubjectQuerySet["Payment"]):
    @contextmanager
    def locked(self, order_ids: Iterable[Any]) -> Iterator[list["Payment"]]:
        """As ``SubjectQuerySet.locked``; the ledger entries are written too when the block ends."""
        with super().locked(order_ids) as payments:
            yield payments
        bulk.insert_all([entry for payment in payments for entry in payment.entered], self.db)

    def authorized_before(self, moment: datetime) -> Self:
        """Payments with an open hold made before ``moment``."""
        return self.filter(authorized_at__lt=moment, authorized__gt=F("captured") + F("voided"))


class Payment(models.Model):
    """The money of one order: how much was asked, held, taken, let go and given back, in minor units.

    Not a status but amounts. What may still happen follows from them, and the constraints below hold whatever the
    code does. A row may begin with the order's cancellation, if that is heard first: it then never authorizes.
    """

    order_id = models.UUIDField(_("order"), primary_key=True)
    currency = models.CharField(_("currency"), max_length=3, blank=True)
    asked = models.PositiveBigIntegerField(_("asked"), default=0)
    authorized = models.PositiveBigIntegerField(_("authorized"), default=0)
    captured = models.PositiveBigIntegerField(_("captured"), default=0)
    voided = models.PositiveBigIntegerField(_("voided"), default=0)
    refunded = models.PositiveBigIntegerField(_("refunded"), default=0)
    reference = models.CharField(_("provider's reference"), max_length=100, blank=True)
    declined = models.CharField(_("declined because"), max_length=100, blank=True)
    capture_refused = models.CharField(_("capture refused because"), max_length=100, blank=True)
    order_cancelled = models.BooleanField(_("order cancelled"), default=False)
    authorized_at = models.DateTimeField(_("authorized at"), null=True, db_index=True)
    created_at = models.DateTimeField(_("first heard of"), default=clock.now)

    objects = PaymentQuerySet.as_manager()

    class Meta:
        verbose_name = _("payment")
        verbose_name_plural = _("payments")
        ordering: ClassVar = ["-created_at"]
        default_permissions = ("view",)
        constraints: ClassVar = [
            models.CheckConstraint(
                condition=Q(authorized__lte=F("asked")), name="payments_no_more_authorized_than_asked"
            ),
            models.CheckConstraint(
                condition=Q(authorized__gte=F("captured") + F("voided")), name="payments_no_more_used_than_authorized"
            ),
            models.CheckConstraint(
                condition=Q(refunded__lte=F("captured")), name="payments_no_more_refunded_than_captured"
            ),
            models.CheckConstraint(
                condition=Q(declined="") | Q(authorized=0), name="payments_never_declined_and_authorized"
            ),
        ]

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        #: What was entered and is not written yet.
        self.entered: list[Entry] = []

    def __str__(self) -> str:
        return str(self.order_id)

    @property
    def held(self) -> int:
        """What is held and neither taken nor let go."""
        return self.authorized - self.captured - self.voided

    @property
    def kept(self) -> int:
        """What was taken and not given back."""
        return self.captured - self.refunded

    @property
    def is_answered(self) -> bool:
        """The question whether the customer can pay has its answer."""
        return bool(self.authorized or self.declined)

    def enter(self, kind: "Entry.Kind", amount: int, key: str) -> None:
        """Move an amount, and note the gateway call that moved it.

        The database refuses both, when they are written, if the amounts contradict each other or the call was noted
        before.
        """
        match kind:
            case Entry.Kind.AUTHORIZED:
                self.authorized += amount
                self.authorized_at = clock.now()
            case Entry.Kind.CAPTURED:
                self.captured += amount
            case Entry.Kind.VOIDED:
                self.voided += amount
            case Entry.Kind.REFUNDED:
                self.refunded += amount
        self.entered.append(Entry(payment=self, kind=kind, amount=amount, key=key))


class Entry(models.Model):
    """One movement of money, with the idempotency key under which the provider's own records have it."""

    class Kind(models.TextChoices):
        AUTHORIZED = "authorized", _("authorized")
        CAPTURED = "captured", _("captured")
        VOIDED = "voided", _("voided")
        REFUNDED = "refunded", _("refunded")

    payment = models.ForeignKey(Payment, verbose_name=_("payment"), on_delete=models.CASCADE, related_name="entries")
    kind = models.CharField(_("kind"), max_length=10, choices=Kind.choices)
    amount = models.PositiveBigIntegerField(_("amount"))
    key = models.CharField(_("idempotency key"), max_length=100, unique=True)
    entered_at = models.DateTimeField(_("entered at"), default=clock.now)

    class Meta:
        verbose_name = _("ledger entry")
        verbose_name_plural = _("ledger entries")
        ordering: ClassVar = ["pk"]
        default_permissions = ("view",)

    def __str__(self) -> str:
        return f"{self.kind} {self.amount}"


class Outbox(choreography.Outbox):
    """What payments has announced."""


class SubjectCounter(choreography.SubjectCounter):
    """The last sequence of orders whose events were purged."""


class Inbox(choreography.Inbox):
    """What payments has heard."""


class DeadLetter(choreography.DeadLetter):
    """What payments could not handle."""


class Retry(choreography.Retry):
    """What payments has on its retry ladder."""


class Claim(choreography.Claim):
    """What payments is calling external systems for, and the timers it runs."""


class Suspect(choreography.Suspect):
    """What may have ended a worker of payments."""


class Report(choreography.Report):
    """What became of deliveries to payments, still to be announced."""


class Redrive(choreography.Redrive):
    """Dead letters of payments that are sent again, group by group."""


class DeadLetterAction(choreography.DeadLetterAction):
    """What people have done to the dead letters of payments."""
