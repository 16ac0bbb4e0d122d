"""The abstract tables that a service makes concrete in its own ``models.py``."""

from choreography.storage.models import DeadLetter, DeadLetterAction, Inbox, Outbox, Redrive, Retry, SubjectCounter
from choreography.storage.rows import SubjectQuerySet

__all__ = ["DeadLetter", "DeadLetterAction", "Inbox", "Outbox", "Redrive", "Retry", "SubjectCounter", "SubjectQuerySet"]
