"""Kitchen's tables. The key of a table is its name, such as "table 7"."""

from django.db import models

from choreography import models as choreography


class Table(models.Model):
    """What one table has ordered."""

    name = models.CharField(max_length=50, primary_key=True)
    dishes = models.PositiveIntegerField(default=0)
    billed = models.PositiveIntegerField(default=0)

    objects = choreography.SubjectQuerySet["Table"].as_manager()

    def __str__(self) -> str:
        return self.name


class Outbox(choreography.Outbox):
    """What kitchen has announced."""


class SubjectCounter(choreography.SubjectCounter):
    """The last sequence of tables whose events were purged."""


class Inbox(choreography.Inbox):
    """What kitchen has heard."""


class DeadLetter(choreography.DeadLetter):
    """What kitchen could not handle."""


class Claim(choreography.Claim):
    """What kitchen is calling external systems for, and the timers it runs."""


class Suspect(choreography.Suspect):
    """What may have ended a worker of kitchen."""


class Retry(choreography.Retry):
    """What kitchen has on its retry ladder."""


class Report(choreography.Report):
    pass


class Redrive(choreography.Redrive):
    """Dead letters of kitchen that are sent again, group by group."""


class DeadLetterAction(choreography.DeadLetterAction):
    """What people have done to the dead letters of kitchen."""
