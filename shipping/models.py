"""Shipping's own table: one shipment per order, and what may happen to it."""

from typing import ClassVar, Self

from django.db import models
from django.db.models import F, Q
from django.utils.translation import gettext_lazy as _

from choreography import models as choreography
from choreography.core import clock
from shipping.carrier import Address


class ShipmentQuerySet(choreography.SubjectQuerySet["Shipment"]):
    def under_way(self) -> Self:
        """Parcels whose end is not known yet, the one looked at longest ago first."""
        return self.filter(state=Shipment.State.DISPATCHED).order_by(F("tracked_at").asc(nulls_first=True))


class Shipment(models.Model):
    """The parcel of one order. The row may begin with a cancellation: then nothing is ever sent."""

    class State(models.TextChoices):
        UNKNOWN = "unknown", _("order not heard of yet")
        PLANNED = "planned", _("waiting for payment")
        DISPATCHING = "dispatching", _("being handed to the carrier")
        DISPATCHED = "dispatched", _("dispatched")
        DELIVERED = "delivered", _("delivered")
        FAILED = "failed", _("failed")
        CANCELLED = "cancelled", _("cancelled")

    order_id = models.UUIDField(_("order"), primary_key=True)
    state = models.CharField(_("state"), max_length=11, choices=State.choices, default=State.UNKNOWN)
    name = models.CharField(_("name"), max_length=120, blank=True)
    street = models.CharField(_("street"), max_length=200, blank=True)
    city = models.CharField(_("city"), max_length=120, blank=True)
    postal_code = models.CharField(_("postal code"), max_length=12, blank=True)
    country = models.CharField(_("country"), max_length=2, blank=True)
    parcel = models.CharField(_("parcel"), max_length=100, blank=True, db_index=True)
    reason = models.CharField(_("reason"), max_length=100, blank=True)
    cancel_requested = models.CharField(
        _("cancellation requested because"), max_length=100, null=True, help_text=_("Empty: nobody has asked.")
    )
    created_at = models.DateTimeField(_("first heard of"), default=clock.now)
    dispatched_at = models.DateTimeField(_("dispatched at"), null=True)
    tracked_at = models.DateTimeField(_("last tracked at"), null=True)
    ended_at = models.DateTimeField(_("ended at"), null=True)

    objects = ShipmentQuerySet.as_manager()

    class Meta:
        verbose_name = _("shipment")
        verbose_name_plural = _("shipments")
        ordering: ClassVar = ["-created_at"]
        default_permissions = ("view",)
        indexes: ClassVar = [
            models.Index(fields=["tracked_at"], condition=Q(state="dispatched"), name="shipping_under_way"),
        ]
        constraints: ClassVar = [
            models.CheckConstraint(
                condition=~Q(state__in=["dispatched", "delivered"]) | ~Q(parcel=""), name="shipping_sent_has_parcel"
            ),
            models.CheckConstraint(
                condition=~Q(state__in=["unknown", "planned", "dispatching", "cancelled"]) | Q(parcel=""),
                name="shipping_unsent_has_no_parcel",
            ),
        ]

    def __str__(self) -> str:
        return str(self.order_id)

    @property
    def address(self) -> Address:
        return Address(self.name, self.street, self.city, self.postal_code, self.country)

    @address.setter
    def address(self, address: Address) -> None:
        self.name, self.street, self.city = address.name, address.street, address.city
        self.postal_code, self.country = address.postal_code, address.country

    @property
    def is_waiting(self) -> bool:
        """Nothing was sent and nothing is decided: it can still be dispatched, or cancelled."""
        return self.state in (self.State.UNKNOWN, self.State.PLANNED)

    def end(self, state: "Shipment.State", reason: str = "") -> None:
        """Come to one of the three ends."""
        self.state, self.reason, self.ended_at = state, reason, clock.now()


class Outbox(choreography.Outbox):
    """What shipping has announced."""


class SubjectCounter(choreography.SubjectCounter):
    """The last sequence of orders whose events were purged."""


class Inbox(choreography.Inbox):
    """What shipping has heard."""


class DeadLetter(choreography.DeadLetter):
    """What shipping could not handle."""


class Retry(choreography.Retry):
    """What shipping has on its retry ladder."""


class Claim(choreography.Claim):
    """What shipping is calling external systems for, and the timers it runs."""


class Suspect(choreography.Suspect):
    """What may have ended a worker of shipping."""


class Report(choreography.Report):
    """What became of deliveries to shipping, still to be announced."""


class Redrive(choreography.Redrive):
    """Dead letters of shipping that are sent again, group by group."""


class DeadLetterAction(choreography.DeadLetterAction):
    """What people have done to the dead letters of shipping."""
