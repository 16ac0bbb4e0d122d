"""Keep the outbox and the inbox small: rows that are done and old go, in bounded bites."""

from typing import Any

from django.db.models import Exists, OuterRef, QuerySet

from choreography import world
from choreography.conf import conf
from choreography.models import alias_of, table_of

#: Rows removed in one statement, so that no lock and no transaction lasts long.
_BITE = 1000


def purge(service: str) -> int:
    """Remove published outbox rows and inbox rows past their age. Waiting events and dead letters never go.

    The newest outbox row of each subject stays: the next ``sequence`` is counted from it.

    Returns:
        How many rows were removed.
    """
    alias, now = alias_of(service), world.now()
    outbox = table_of(service, "Outbox").objects.using(alias)
    newer = outbox.filter(subject=OuterRef("subject"), sequence__gt=OuterRef("sequence"))
    published = outbox.filter(published_at__lt=now - conf().keep_outbox).filter(Exists(newer))
    handled = table_of(service, "Inbox").objects.using(alias).filter(handled_at__lt=now - conf().keep_inbox)
    return _in_bites(published) + _in_bites(handled)


def _in_bites(rows: QuerySet[Any]) -> int:
    removed = 0
    while bite := list(rows.order_by("pk").values_list("pk", flat=True)[:_BITE]):
        removed += rows.model.objects.using(rows.db).filter(pk__in=bite).delete()[0]
    return removed
