"""The tables every service has of its own, in its own database: outbox, inbox and dead letters.

Abstract here; a service makes them concrete in its ``models.py`` (``class Outbox(models.Outbox): pass``), so that
each service's rows, permissions and admin pages are its own and no table is shared.
"""

from contextlib import AbstractContextManager
from typing import Any, ClassVar

from django.apps import apps
from django.db import models, router, transaction
from django.utils.translation import gettext_lazy as _

from choreography import world


class Outbox(models.Model):
    """An event announced by the transaction that made it true, on its way to the broker.

    The row stays after it was published, so that people can see what was announced, and is purged by age. The
    newest row of each subject is kept, because the next ``sequence`` is counted from it.
    """

    position = models.BigAutoField(_("position"), primary_key=True)
    event_id = models.UUIDField(_("event"), unique=True)
    event_type = models.CharField(_("event type"), max_length=100)
    subject = models.UUIDField(_("order"))
    sequence = models.PositiveIntegerField(_("sequence"), help_text=_("Counts the events of one order."))
    caused_by = models.UUIDField(_("caused by"), null=True, help_text=_("The event this is a reaction to."))
    body = models.TextField(_("body"), help_text=_("The event as it goes out: CloudEvents JSON."))
    announced_at = models.DateTimeField(_("announced at"), default=world.now)
    published_at = models.DateTimeField(_("published at"), null=True, help_text=_("Empty: still to be published."))

    class Meta:
        abstract = True
        verbose_name = _("announced event")
        verbose_name_plural = _("announced events")
        default_permissions = ("view",)
        ordering: ClassVar = ["-position"]
        constraints: ClassVar = [
            models.UniqueConstraint(fields=["subject", "sequence"], name="%(app_label)s_outbox_counts_per_subject"),
        ]
        indexes: ClassVar = [
            models.Index(
                fields=["position"],
                condition=models.Q(published_at=None),
                name="%(app_label)s_outbox_to_publish",
            ),
        ]

    def __str__(self) -> str:
        return f"{self.event_type} {self.event_id}"


class Inbox(models.Model):
    """An event that took effect here. The unique pair is why a second delivery of it has none."""

    event_id = models.UUIDField(_("event"))
    reaction = models.CharField(_("reaction"), max_length=100)
    event_type = models.CharField(_("event type"), max_length=100)
    subject = models.UUIDField(_("order"), db_index=True)
    handled_at = models.DateTimeField(_("handled at"), default=world.now)
    attempts = models.PositiveIntegerField(_("attempts"), default=1, help_text=_("The one that worked included."))

    class Meta:
        abstract = True
        verbose_name = _("heard event")
        verbose_name_plural = _("heard events")
        default_permissions = ("view",)
        ordering: ClassVar = ["-pk"]
        constraints: ClassVar = [
            models.UniqueConstraint(fields=["event_id", "reaction"], name="%(app_label)s_inbox_once_per_reaction"),
        ]

    def __str__(self) -> str:
        return f"{self.event_type} {self.event_id} -> {self.reaction}"


class DeadLetter(models.Model):
    """A delivery that was given up, kept whole: nothing that arrived here is ever thrown away by the machine."""

    class State(models.TextChoices):
        PARKED = "parked", _("parked")
        RETRYING = "retrying", _("sent again")
        RESOLVED = "resolved", _("resolved")

    state = models.CharField(_("state"), max_length=10, choices=State.choices, default=State.PARKED, db_index=True)
    key = models.CharField(_("key"), max_length=150, unique=True, help_text=_("One letter per message and reaction."))
    event_id = models.UUIDField(_("event"), null=True)
    event_type = models.CharField(_("event type"), max_length=200, blank=True)
    subject = models.UUIDField(_("order"), null=True, db_index=True)
    reaction = models.CharField(_("reaction"), max_length=100, blank=True)
    error = models.CharField(_("error"), max_length=200)
    message = models.TextField(_("message"))
    traceback = models.TextField(_("traceback"), blank=True)
    attempts = models.PositiveIntegerField(_("attempts"), default=0)
    body = models.BinaryField(_("body"))
    content_type = models.CharField(_("content type"), max_length=200, blank=True)
    headers = models.JSONField(_("headers"), default=dict)
    parked_at = models.DateTimeField(_("parked at"), default=world.now)
    resolved_at = models.DateTimeField(_("resolved at"), null=True)

    class Meta:
        abstract = True
        verbose_name = _("dead letter")
        verbose_name_plural = _("dead letters")
        ordering: ClassVar = ["-pk"]
        default_permissions = ("view", "change")
        permissions: ClassVar = [("retry_deadletter", _("Can send dead letters again"))]

    def __str__(self) -> str:
        return f"{self.reaction or self.event_type or _('unknown message')}: {self.error}"


def table_of(service: str, name: str) -> Any:
    """A service's own ``Outbox``, ``Inbox`` or ``DeadLetter`` class.

    Raises:
        LookupError: the service is not installed in this process or lacks the table.
    """
    return apps.get_model(service, name)


def alias_of(service: str) -> str:
    """The alias of the database a service lives in."""
    return router.db_for_write(table_of(service, "Outbox"))


def transaction_of(service: str) -> AbstractContextManager[None]:
    """One transaction on a service's database: its own change and the events that report it."""
    return transaction.atomic(using=alias_of(service))
