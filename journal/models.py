"""Journal's own tables: a row per flow with what is known of it, a row per event, a row per outcome of a delivery."""

from collections import defaultdict
from datetime import datetime, timedelta
from typing import ClassVar, Final, NamedTuple

from django.db import models
from django.db.models import Q
from django.utils.translation import gettext_lazy as _

from choreography import models as choreography
from choreography.core import clock
from choreography.core.conf import SUBJECT_LENGTH

#: The alias of journal's database.
ALIAS: Final = "journal"
#: A pause that nobody has told of for so long is over: its worker was killed. Workers tell every five seconds.
PAUSE_LASTS: Final = timedelta(seconds=15)


class Flow(models.Model):
    """Everything that happened because of one subject, in a row that says how it stands."""

    class Mark(models.TextChoices):
        """What is wrong with a flow, the worst first."""

        ILLEGAL = "illegal", _("illegal")
        MISSING = "missing", _("overdue")
        STALLED = "stalled", _("stalled")
        DIFFERENT = "different", _("different")
        NONE = "", _("none")

    id = models.CharField(_("flow"), max_length=SUBJECT_LENGTH, primary_key=True)
    number = models.CharField(_("number"), max_length=8, db_index=True, help_text=_("The last eight digits."))
    started_at = models.DateTimeField(_("started at"), help_text=_("When its first event was announced."))
    last_at = models.DateTimeField(_("last heard of at"))
    end = models.CharField(_("end"), max_length=100, blank=True, help_text=_("The event it ended with."))
    end_at = models.DateTimeField(_("end announced at"), null=True)
    ended_at = models.DateTimeField(_("ended at"), null=True, help_text=_("Empty while anything is pending."))
    needs_person = models.BooleanField(_("needs a person"), default=False)
    parked = models.PositiveIntegerField(_("parked"), default=0, help_text=_("Its parked deliveries."))
    events = models.PositiveIntegerField(_("events"), default=0)
    mark = models.CharField(_("mark"), max_length=10, choices=Mark.choices, blank=True)
    check_at = models.DateTimeField(_("to be checked at"), null=True, help_text=_("When something becomes overdue."))
    state = models.JSONField(_("state"), default=dict, help_text=_("What is pending: see flow_state.FlowState."))

    class Meta:
        verbose_name = _("flow")
        verbose_name_plural = _("flows")
        ordering: ClassVar = ["-started_at", "-id"]
        default_permissions = ("view",)
        permissions: ClassVar = [("view_personal", _("Can see personal data in the journal"))]
        indexes: ClassVar = [
            models.Index(fields=["-started_at", "-id"], name="journal_flow_newest"),
            models.Index(fields=["check_at"], condition=Q(check_at__isnull=False), name="journal_flow_to_check"),
            models.Index(fields=["-started_at", "-id"], condition=Q(ended_at=None), name="journal_flow_running"),
            models.Index(fields=["-started_at", "-id"], condition=~Q(mark=""), name="journal_flow_marked"),
            models.Index(fields=["-started_at", "-id"], condition=Q(parked__gt=0), name="journal_flow_parked"),
            models.Index(fields=["-started_at", "-id"], condition=Q(needs_person=True), name="journal_flow_for_person"),
            models.Index(fields=["-ended_at"], condition=Q(ended_at__isnull=False), name="journal_flow_ended"),
        ]

    def __str__(self) -> str:
        return self.number


class Entry(models.Model):
    """An event that was announced."""

    id = models.BigAutoField(primary_key=True)
    event_id = models.UUIDField(_("event"), unique=True)
    flow = models.CharField(_("flow"), max_length=SUBJECT_LENGTH, db_index=True)
    type = models.CharField(_("event type"), max_length=100)
    source = models.CharField(_("service"), max_length=100)
    subject = models.CharField(_("subject"), max_length=SUBJECT_LENGTH)
    caused_by = models.CharField(_("caused by"), max_length=200, blank=True)
    traceparent = models.CharField(_("traceparent"), max_length=200, blank=True)
    parent_span = models.CharField(_("parent span"), max_length=200, blank=True, help_text=_("Of a web request."))
    body = models.TextField(_("body"), help_text=_("The event's data, as JSON."))
    announced_at = models.DateTimeField(_("announced at"))
    published_at = models.DateTimeField(_("published at"), null=True)
    recorded_at = models.DateTimeField(_("recorded at"), default=clock.now)

    class Meta:
        verbose_name = _("event in the journal")
        verbose_name_plural = _("events in the journal")
        default_permissions = ()
        indexes: ClassVar = [
            models.Index(fields=["type", "-id"], name="journal_entry_by_type"),
            models.Index(fields=["source", "-id"], name="journal_entry_by_service"),
        ]

    def __str__(self) -> str:
        return f"{self.type} {self.event_id}"


class Outcome(models.Model):
    """What became of a delivery, once: a row per attempt."""

    id = models.BigAutoField(primary_key=True)
    key = models.UUIDField(_("key"), unique=True, help_text=_("The same for the same report, however often it comes."))
    flow = models.CharField(_("flow"), max_length=SUBJECT_LENGTH, db_index=True)
    event_id = models.CharField(_("event"), max_length=36, blank=True)
    event_type = models.CharField(_("event type"), max_length=100, blank=True)
    service = models.CharField(_("service"), max_length=100)
    reaction = models.CharField(_("reaction"), max_length=100, blank=True)
    what = models.CharField(_("outcome"), max_length=10)
    attempt = models.PositiveIntegerField(_("attempt"), default=1)
    error = models.CharField(_("error"), max_length=300, blank=True)
    dead_letter = models.CharField(_("dead letter"), max_length=150, blank=True)
    who = models.CharField(_("who"), max_length=150, blank=True)
    published_at = models.DateTimeField(_("published at"), null=True)
    received_at = models.DateTimeField(_("received at"), null=True)
    started_at = models.DateTimeField(_("started at"), null=True)
    ended_at = models.DateTimeField(_("ended at"))
    next_at = models.DateTimeField(_("next attempt at"), null=True)
    recorded_at = models.DateTimeField(_("recorded at"), default=clock.now)

    class Meta:
        verbose_name = _("outcome of a delivery")
        verbose_name_plural = _("outcomes of deliveries")
        default_permissions = ()

    def __str__(self) -> str:
        return f"{self.reaction or self.event_type}: {self.what}"


class Keyword(models.Model):
    """A word by which a flow can be found: a tracking number, an e-mail address."""

    id = models.BigAutoField(primary_key=True)
    flow = models.CharField(_("flow"), max_length=SUBJECT_LENGTH, db_index=True)
    word = models.CharField(_("word"), max_length=200)
    is_personal = models.BooleanField(_("is personal"), default=False)

    class Meta:
        verbose_name = _("keyword")
        verbose_name_plural = _("keywords")
        default_permissions = ()
        constraints: ClassVar = [models.UniqueConstraint(fields=["word", "flow"], name="journal_keyword_once")]

    def __str__(self) -> str:
        return self.word


class MarkOfFlow(models.Model):
    """What was found wrong with a flow, and when it was put right."""

    flow = models.CharField(_("flow"), max_length=SUBJECT_LENGTH, db_index=True)
    kind = models.CharField(_("kind"), max_length=10, choices=Flow.Mark.choices)
    what = models.CharField(_("what"), max_length=400)
    culprit = models.CharField(_("culprit"), max_length=100, blank=True, help_text=_("The service to look at."))
    remedy = models.CharField(_("remedy"), max_length=400, blank=True)
    since = models.DateTimeField(_("since"), default=clock.now)
    mailed_at = models.DateTimeField(_("mail sent at"), null=True)
    called_at = models.DateTimeField(_("webhook called at"), null=True)
    cleared_at = models.DateTimeField(_("cleared at"), null=True)

    class Meta:
        indexes: ClassVar = [
            models.Index(fields=["since"], condition=Q(mailed_at=None), name="journal_mark_to_mail"),
            models.Index(fields=["since"], condition=Q(called_at=None), name="journal_mark_to_call"),
        ]
        verbose_name = _("mark on a flow")
        verbose_name_plural = _("marks on flows")
        default_permissions = ("view",)
        ordering: ClassVar = ["-since"]
        constraints: ClassVar = [
            models.UniqueConstraint(
                fields=["flow", "kind"], condition=Q(cleared_at=None), name="journal_mark_once_per_kind"
            ),
        ]

    def __str__(self) -> str:
        return f"{self.kind}: {self.what}"


class Account(models.Model):
    """What a service's rows said about some flows of an hour, beside what the journal had of them."""

    id = models.BigAutoField(primary_key=True)
    hour = models.DateTimeField(_("hour"))
    service = models.CharField(_("service"), max_length=100)
    first = models.CharField(_("from subject"), max_length=SUBJECT_LENGTH)
    at = models.DateTimeField(_("rows read at"))
    flows = models.PositiveIntegerField(_("flows"), help_text=_("That had ended, and were compared."))
    running = models.PositiveIntegerField(_("running"), help_text=_("Flows that had not ended."))
    different = models.PositiveIntegerField(
        _("different"), help_text=_("Flows of which the journal had something else.")
    )
    totals = models.JSONField(
        _("totals"), default=dict, help_text=_("By name: count and sum of the rows, then of the journal.")
    )

    class Meta:
        verbose_name = _("account")
        verbose_name_plural = _("accounts")
        default_permissions = ("view",)
        constraints: ClassVar = [
            models.UniqueConstraint(fields=["hour", "service", "first"], name="journal_account_once_per_part"),
        ]

    def __str__(self) -> str:
        return f"{self.service} {self.hour:%Y-%m-%d %H}"


class ServiceStatus(models.Model):
    """How a service was doing when its relay last looked."""

    service = models.CharField(_("service"), max_length=100, primary_key=True)
    at = models.DateTimeField(_("at"))
    outbox = models.PositiveIntegerField(_("waiting in the outbox"), default=0)
    oldest = models.DateTimeField(_("oldest of them"), null=True)
    refused = models.PositiveIntegerField(_("refused by the broker"), default=0)
    retries = models.PositiveIntegerField(_("on the retry ladder"), default=0)
    parked = models.PositiveIntegerField(_("parked"), default=0)

    class Meta:
        verbose_name = _("status of a service")
        verbose_name_plural = _("status of services")
        default_permissions = ("view",)

    def __str__(self) -> str:
        return self.service


class PauseQuerySet(models.QuerySet["Pause"]):
    """Pauses."""

    def going_on(self) -> "dict[str, Pauses]":
        """By service, those that were told of lately: a worker that pauses says so every few seconds."""
        found: dict[str, list[Pause]] = defaultdict(list)
        for pause in self.filter(seen_at__gt=clock.now() - PAUSE_LASTS).order_by("since", "pk"):
            found[pause.service].append(pause)
        return {service: Pauses(tuple(pauses)) for service, pauses in found.items()}


class Pause(models.Model):
    """A service takes no deliveries, because something it needs is down."""

    id = models.BigAutoField(primary_key=True)
    service = models.CharField(_("service"), max_length=100)
    dependency = models.CharField(_("what is down"), max_length=100)
    error = models.CharField(_("error"), max_length=300, blank=True)
    since = models.DateTimeField(_("since"))
    seen_at = models.DateTimeField(_("last told at"))

    objects = PauseQuerySet.as_manager()

    class Meta:
        verbose_name = _("pause")
        verbose_name_plural = _("pauses")
        default_permissions = ("view",)
        constraints: ClassVar = [
            models.UniqueConstraint(fields=["service", "dependency"], name="journal_one_pause_per_dependency"),
        ]

    def __str__(self) -> str:
        """``payment gateway is down (GatewayDown: ...)``."""
        return f"{self.dependency} is down ({self.error})"


class Pauses(NamedTuple):
    """All that a service pauses for at this moment, the longest first."""

    pauses: tuple[Pause, ...]

    @property
    def since(self) -> datetime:
        return self.pauses[0].since

    @property
    def dependencies(self) -> str:
        """``payment gateway, database``."""
        return ", ".join(pause.dependency for pause in self.pauses)

    def __str__(self) -> str:
        return "; ".join(map(str, self.pauses))


class Minute(models.Model):
    """How often something happened in one minute, and how long it took: a row per name."""

    id = models.BigAutoField(primary_key=True)
    at = models.DateTimeField(_("minute"))
    name = models.CharField(_("name"), max_length=210, help_text=_("event:<type>, hop:<reaction>, flow:<end>"))
    count = models.PositiveIntegerField(_("count"), default=0)
    times = models.JSONField(_("times"), default=dict, help_text=_("Counts by bucket of duration: see latency."))

    class Meta:
        verbose_name = _("minute")
        verbose_name_plural = _("minutes")
        default_permissions = ()
        constraints: ClassVar = [models.UniqueConstraint(fields=["at", "name"], name="journal_minute_once")]

    def __str__(self) -> str:
        return f"{self.at:%H:%M} {self.name}"


class Cursor(models.Model):
    """How far something has read one of the tables above."""

    name = models.CharField(_("name"), max_length=50, primary_key=True)
    position = models.BigIntegerField(_("position"), default=0)

    class Meta:
        verbose_name = _("cursor")
        verbose_name_plural = _("cursors")
        default_permissions = ()

    def __str__(self) -> str:
        return self.name


class Outbox(choreography.Outbox):
    """What journal has announced."""


class SubjectCounter(choreography.SubjectCounter):
    """The last sequence of flows whose events were purged."""


class Inbox(choreography.Inbox):
    """What journal has heard."""


class DeadLetter(choreography.DeadLetter):
    """What journal could not handle."""


class Retry(choreography.Retry):
    """What journal has on its retry ladder."""


class Claim(choreography.Claim):
    """The timers that journal runs."""


class Suspect(choreography.Suspect):
    """What may have ended a worker of journal."""


class Report(choreography.Report):
    """Not used: journal does not report on itself."""


class Redrive(choreography.Redrive):
    """Dead letters of journal that are sent again, group by group."""


class DeadLetterAction(choreography.DeadLetterAction):
    """What people have done to the dead letters of journal."""
