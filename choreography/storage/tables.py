"""The tables of one service, as typed querysets on the database it lives in."""

from functools import cache
from typing import TYPE_CHECKING, Any

from django.apps import apps
from django.core.signals import setting_changed
from django.db import router
from django.db.models import QuerySet

if TYPE_CHECKING:
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


class ServiceTables:
    """``ServiceTables("payments").outbox.filter(published_at=None)``: every attribute is a fresh queryset.

    They read and write the database that the router names for writing, never a replica.

    Raises:
        LookupError: on use, if the service is not installed in this process or lacks the table.
    """

    def __init__(self, service: str) -> None:
        self.service = service

    @property
    def alias(self) -> str:
        """The alias of the service's database."""
        return _alias(self.service)

    @property
    def outbox(self) -> "QuerySet[Outbox]":
        return self._rows("Outbox")

    @property
    def counters(self) -> "QuerySet[SubjectCounter]":
        return self._rows("SubjectCounter")

    @property
    def reports(self) -> "QuerySet[Report]":
        return self._rows("Report")

    @property
    def inbox(self) -> "QuerySet[Inbox]":
        return self._rows("Inbox")

    @property
    def dead_letters(self) -> "QuerySet[DeadLetter]":
        return self._rows("DeadLetter")

    @property
    def actions(self) -> "QuerySet[DeadLetterAction]":
        """What people did to dead letters."""
        return self._rows("DeadLetterAction")

    @property
    def redrives(self) -> "QuerySet[Redrive]":
        return self._rows("Redrive")

    @property
    def retries(self) -> "QuerySet[Retry]":
        return self._rows("Retry")

    @property
    def claims(self) -> "QuerySet[Claim]":
        return self._rows("Claim")

    @property
    def suspects(self) -> "QuerySet[Suspect]":
        return self._rows("Suspect")

    def _rows(self, name: str) -> QuerySet[Any]:
        # Not by way of a manager, which makes two on the way: this is asked for a dozen times per delivery.
        return QuerySet(apps.get_model(self.service, name), using=self.alias)


@cache
def _alias(service: str) -> str:
    return router.db_for_write(apps.get_model(service, "Outbox"))


# Only tests change settings while running.
setting_changed.connect(lambda **_: _alias.cache_clear(), weak=False)
