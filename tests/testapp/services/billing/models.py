"""Billing's tables. The key of a bill is the name of its table, such as "table 7"."""

from django.db import models

from choreography import models as choreography


class Bill(models.Model):
    """What one table has to pay, in cents."""

    table = models.CharField(max_length=50, primary_key=True)
    total = models.PositiveIntegerField(default=0)
    receipt = models.CharField(max_length=100, blank=True)

    objects = choreography.SubjectQuerySet["Bill"].as_manager()

    def __str__(self) -> str:
        return self.table


class Outbox(choreography.Outbox):
    """What billing has announced."""


class SubjectCounter(choreography.SubjectCounter):
    """The last sequence of tables whose events were purged."""


class Inbox(choreography.Inbox):
    """What billing has heard."""


class DeadLetter(choreography.DeadLetter):
    """What billing could not handle."""


class Claim(choreography.Claim):
    """What billing is calling external systems for, and the timers it runs."""


class Suspect(choreography.Suspect):
    """What may have ended a worker of billing."""


class Retry(choreography.Retry):
    """What billing has on its retry ladder."""


class Report(choreography.Report):
    pass


class Redrive(choreography.Redrive):
    """Dead letters of billing that are sent again, group by group."""


class DeadLetterAction(choreography.DeadLetterAction):
    """What people have done to the dead letters of billing."""
