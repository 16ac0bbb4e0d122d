"""Delete flows that ended long ago, in bounded batches. What has not ended, or needs a person, stays."""

from datetime import timedelta

from django.conf import settings
from django.db import transaction
from django.db.models import QuerySet

from choreography.core import clock
from journal.models import ALIAS, Entry, Flow, Keyword, MarkOfFlow, Minute, Outcome

#: Flows deleted in one transaction.
_AT_ONCE = 500


def purge_flows() -> int:
    """Delete flows past their age by how they ended (``JOURNAL_KEEP_DAYS``), and counts. Returns how many flows."""
    keep = {end: timedelta(days=days) for end, days in settings.JOURNAL_KEEP_DAYS.items()}
    default = keep.pop("", timedelta(days=365))
    now = clock.now()
    ended = Flow.objects.filter(needs_person=False, mark="", parked=0)
    deleted = 0
    for end, age in keep.items():
        deleted += _delete(ended.filter(end=end, ended_at__lt=now - age))
    deleted += _delete(ended.exclude(end__in=keep).filter(ended_at__lt=now - default))
    Minute.objects.filter(at__lt=now - timedelta(days=settings.JOURNAL_KEEP_MINUTES_DAYS)).delete()
    return deleted


def _delete(flows: QuerySet[Flow]) -> int:
    deleted = 0
    while keys := [*flows.order_by("ended_at").values_list("pk", flat=True)[:_AT_ONCE]]:
        with transaction.atomic(using=ALIAS):
            for model in (Entry, Outcome, Keyword, MarkOfFlow):
                model._default_manager.filter(flow__in=keys).delete()
            deleted += Flow.objects.filter(pk__in=keys).delete()[0]
    return deleted
