"""The abstract tables that a service makes concrete in its own ``models.py``."""

from choreography.storage.models import Counted, DeadLetter, DeadLetterAction, Inbox, Outbox, Redrive, Retry

__all__ = ["Counted", "DeadLetter", "DeadLetterAction", "Inbox", "Outbox", "Redrive", "Retry"]
