"""The tables every service has of its own, in its own database: outbox, inbox, dead letters and what people do to them.

Abstract here; a service makes them concrete in its ``models.py`` (``class Outbox(models.Outbox): pass``), so that
each service's rows, permissions and admin pages are its own and no table is shared.
"""

from typing import ClassVar

from django.db import models
from django.utils.translation import gettext_lazy as _

from choreography.core import clock
from choreography.core.conf import SUBJECT_LENGTH


class Outbox(models.Model):
    """An event announced by the transaction that made it true, on its way to the broker.

    The row stays after it was published, so that people can see what was announced, and is purged by age.
    """

    position = models.BigAutoField(_("position"), primary_key=True)
    event_id = models.UUIDField(_("event"), unique=True)
    fact_id = models.UUIDField(
        _("fact"), null=True, help_text=_("The event of a newer version that this one is made of, if it is.")
    )
    event_type = models.CharField(_("event type"), max_length=100)
    subject = models.CharField(_("subject"), max_length=SUBJECT_LENGTH)
    sequence = models.PositiveIntegerField(_("sequence"), help_text=_("Counts the events of one subject."))
    caused_by = models.UUIDField(_("caused by"), null=True, help_text=_("The event this is a reaction to."))
    body = models.TextField(_("body"), help_text=_("The event as it goes out: CloudEvents JSON."))
    announced_at = models.DateTimeField(_("announced at"), default=clock.now)
    published_at = models.DateTimeField(_("published at"), null=True, help_text=_("Empty: still to be published."))
    refusal = models.CharField(
        _("refused because"), max_length=500, blank=True, help_text=_("Why the broker will never take it.")
    )

    class Meta:
        abstract = True
        verbose_name = _("announced event")
        verbose_name_plural = _("announced events")
        default_permissions = ("view",)
        permissions: ClassVar = [("view_personal_outbox", _("Can see personal data in the outbox"))]
        ordering: ClassVar = ["-position"]
        constraints: ClassVar = [
            models.UniqueConstraint(fields=["subject", "sequence"], name="%(app_label)s_outbox_counts_per_subject"),
        ]
        indexes: ClassVar = [
            models.Index(
                fields=["position"],
                condition=models.Q(published_at=None, refusal=""),
                name="%(app_label)s_to_publish",
            ),
        ]

    def __str__(self) -> str:
        return f"{self.event_type} {self.event_id}"


class SubjectCounter(models.Model):
    """The last ``sequence`` of a subject whose events were purged from the outbox: counting continues from it."""

    subject = models.CharField(_("subject"), max_length=SUBJECT_LENGTH, primary_key=True)
    sequence = models.PositiveIntegerField(_("sequence"), help_text=_("Of the last event that was purged."))

    class Meta:
        abstract = True
        verbose_name = _("subject counter")
        verbose_name_plural = _("subject counters")
        default_permissions = ("view",)

    def __str__(self) -> str:
        return f"{self.subject}: {self.sequence}"


class Report(models.Model):
    """What became of the deliveries of one transaction, on its way to whoever keeps the history of flows."""

    position = models.BigAutoField(_("position"), primary_key=True)
    body = models.TextField(_("body"), help_text=_("A JSON array of what events.reports.DeliveryReport describes."))

    class Meta:
        abstract = True
        verbose_name = _("report")
        verbose_name_plural = _("reports")
        default_permissions = ("view",)

    def __str__(self) -> str:
        return str(self.position)


class Inbox(models.Model):
    """An event that took effect here. The unique pair is why a second delivery of it has none."""

    event_id = models.UUIDField(_("event"))
    reaction = models.CharField(_("reaction"), max_length=100)
    event_type = models.CharField(_("event type"), max_length=100)
    subject = models.CharField(_("subject"), max_length=SUBJECT_LENGTH, db_index=True)
    handled_at = models.DateTimeField(_("handled at"), default=clock.now)
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
    """A delivery that was parked, kept whole: bytes, headers, error and traceback. Nothing deletes it."""

    class State(models.TextChoices):
        PARKED = "parked", _("parked")
        RETRYING = "retrying", _("sent again")
        RESOLVED = "resolved", _("resolved")
        DISCARDED = "discarded", _("discarded")

    state = models.CharField(_("state"), max_length=10, choices=State.choices, default=State.PARKED, db_index=True)
    key = models.CharField(
        _("key"), max_length=150, unique=True, help_text=_("One dead letter per message and reaction.")
    )
    fingerprint = models.CharField(
        _("fingerprint"), max_length=12, default="", db_index=True, help_text=_("The same for all that fail alike.")
    )
    event_id = models.UUIDField(_("event"), null=True)
    event_type = models.CharField(_("event type"), max_length=200, blank=True)
    subject = models.CharField(_("subject"), max_length=SUBJECT_LENGTH, blank=True, db_index=True)
    reaction = models.CharField(_("reaction"), max_length=100, blank=True)
    error = models.CharField(_("error"), max_length=200)
    location = models.CharField(
        _("location"), max_length=200, blank=True, help_text=_("The function in which it failed.")
    )
    message = models.TextField(_("message"))
    traceback = models.TextField(_("traceback"), blank=True)
    attempts = models.PositiveIntegerField(_("attempts"), default=0)
    body = models.BinaryField(_("body"))
    content_type = models.CharField(_("content type"), max_length=200, blank=True)
    headers = models.JSONField(_("headers"), default=dict)
    first_parked_at = models.DateTimeField(_("first parked at"), default=clock.now)
    parked_at = models.DateTimeField(_("last parked at"), default=clock.now)
    sent_at = models.DateTimeField(_("last sent again at"), null=True)
    resolved_at = models.DateTimeField(_("resolved at"), null=True)

    class Meta:
        abstract = True
        verbose_name = _("dead letter")
        verbose_name_plural = _("dead letters")
        ordering: ClassVar = ["-pk"]
        default_permissions = ("view", "change")
        permissions: ClassVar = [
            ("dry_run_deadletter", _("Can try out what dead letters would do")),
            ("retry_deadletter", _("Can send dead letters again")),
            ("edit_deadletter", _("Can edit dead letters and send them again")),
            ("discard_deadletter", _("Can discard dead letters")),
            ("view_personal_deadletter", _("Can see personal data in dead letters")),
        ]

    def __str__(self) -> str:
        return f"{self.reaction or self.event_type or _('unknown message')}: {self.error}"


class Retry(models.Model):
    """A delivery on the retry ladder, recorded in case the broker loses it. Deleted when the message has come back."""

    key = models.CharField(_("key"), max_length=64, primary_key=True, help_text=_("One row per message."))
    body = models.BinaryField(_("body"))
    content_type = models.CharField(_("content type"), max_length=200, blank=True)
    headers = models.JSONField(_("headers"), default=dict)
    due_back_at = models.DateTimeField(_("due back at"), db_index=True)
    copies = models.PositiveIntegerField(_("copies"), default=0, help_text=_("How often it was published again."))

    class Meta:
        abstract = True
        verbose_name = _("retry")
        verbose_name_plural = _("retries")
        default_permissions = ("view",)

    def __str__(self) -> str:
        return self.key


class Claim(models.Model):
    """The right to call an external system for a delivery, or to run a timer: one owner at a time (``claims``)."""

    key = models.CharField(_("key"), max_length=150, primary_key=True, help_text=_("Reaction or timer, and event."))
    owner = models.UUIDField(_("owner"))
    until = models.DateTimeField(_("until"), help_text=_("Put off while the owner lives."))

    class Meta:
        abstract = True
        verbose_name = _("claim")
        verbose_name_plural = _("claims")
        default_permissions = ("view",)

    def __str__(self) -> str:
        return self.key


class Suspect(models.Model):
    """A delivery that may have ended its worker's process: how often it was begun since (``inbox.suspects``)."""

    key = models.CharField(_("key"), max_length=64, primary_key=True, help_text=_("One row per message."))
    begun = models.PositiveIntegerField(_("begun"), help_text=_("So many times, and never ended."))
    last_at = models.DateTimeField(_("last at"), default=clock.now)

    class Meta:
        abstract = True
        verbose_name = _("suspect")
        verbose_name_plural = _("suspects")
        default_permissions = ("view",)

    def __str__(self) -> str:
        return self.key


class Redrive(models.Model):
    """All parked dead letters of one fingerprint on their way back into the service's queue, step by step."""

    class State(models.TextChoices):
        RUNNING = "running", _("running")
        DONE = "done", _("done")
        STOPPED = "stopped", _("stopped")

    fingerprint = models.CharField(_("fingerprint"), max_length=12, db_index=True)
    state = models.CharField(_("state"), max_length=10, choices=State.choices, default=State.RUNNING)
    rate = models.FloatField(_("rate"), help_text=_("Dead letters per second, at most."))
    step = models.PositiveIntegerField(_("step"), default=0)
    who = models.CharField(_("who"), max_length=150)
    why = models.TextField(_("why"), blank=True)
    note = models.TextField(_("note"), blank=True, help_text=_("Why it stopped."))
    started_at = models.DateTimeField(_("started at"), default=clock.now)
    next_at = models.DateTimeField(_("continues at"), default=clock.now, help_text=_("As the rate allows."))
    ended_at = models.DateTimeField(_("ended at"), null=True)

    class Meta:
        abstract = True
        verbose_name = _("redrive")
        verbose_name_plural = _("redrives")
        ordering: ClassVar = ["-pk"]
        default_permissions = ("view",)
        constraints: ClassVar = [
            models.UniqueConstraint(
                fields=["fingerprint"],
                condition=models.Q(state="running"),
                name="%(app_label)s_redrive_one_at_a_time",
            ),
            models.CheckConstraint(condition=models.Q(rate__gt=0), name="%(app_label)s_redrive_rate_above_zero"),
        ]

    def __str__(self) -> str:
        return f"{self.fingerprint}: {self.state}"


class DeadLetterAction(models.Model):
    """One line of a dead letter's history: who did what to it, when, why, and with what outcome."""

    class What(models.TextChoices):
        DRY_RUN = "dry_run", _("dry run")
        RETRY = "retry", _("sent again")
        EDIT = "edit", _("edited and sent again")
        DISCARD = "discard", _("discarded")

    class Outcome(models.TextChoices):
        PENDING = "pending", _("no outcome yet")
        RESOLVED = "resolved", _("took effect")
        PARKED = "parked", _("parked again")
        SUPERSEDED = "superseded", _("sent once more before there was an outcome")
        DISCARDED = "discarded", _("discarded")
        WOULD_TAKE_EFFECT = "would_take_effect", _("would take effect")
        WOULD_DO_NOTHING = "would_do_nothing", _("already took effect: a retry changes nothing")
        WOULD_CALL = "would_call", _("would call an external system")
        WOULD_FAIL = "would_fail", _("would fail")

    dead_letter = models.ForeignKey(
        "DeadLetter", verbose_name=_("dead letter"), on_delete=models.CASCADE, related_name="actions"
    )
    redrive = models.ForeignKey(
        "Redrive", verbose_name=_("redrive"), on_delete=models.PROTECT, null=True, related_name="actions"
    )
    step = models.PositiveIntegerField(_("step"), null=True, help_text=_("Of the redrive."))
    at = models.DateTimeField(_("at"), default=clock.now)
    who = models.CharField(_("who"), max_length=150)
    what = models.CharField(_("what"), max_length=10, choices=What.choices)
    why = models.TextField(_("why"), blank=True)
    old_body = models.BinaryField(_("old body"), null=True)
    new_body = models.BinaryField(_("new body"), null=True)
    outcome = models.CharField(_("outcome"), max_length=20, choices=Outcome.choices, default=Outcome.PENDING)
    detail = models.TextField(_("detail"), blank=True)
    ended_at = models.DateTimeField(_("ended at"), null=True)

    class Meta:
        abstract = True
        verbose_name = _("action on a dead letter")
        verbose_name_plural = _("actions on dead letters")
        ordering: ClassVar = ["-pk"]
        default_permissions = ("view",)

    def __str__(self) -> str:
        return f"{self.what}: {self.outcome}"
