"""The abstract tables that a service makes concrete in its own ``models.py``."""

from choreography.storage.models import (
    Claim,
    DeadLetter,
    DeadLetterAction,
    Inbox,
    Outbox,
    Redrive,
    Report,
    Retry,
    SubjectCounter,
    Suspect,
)
from choreography.storage.rows import SubjectQuerySet

__all__ = [
    "Claim",
    "DeadLetter",
    "DeadLetterAction",
    "Inbox",
    "Outbox",
    "Redrive",
    "Report",
    "Retry",
    "SubjectCounter",
    "SubjectQuerySet",
    "Suspect",
]
