"""Count, minute by minute, what came into the journal: how often, and how long it took.

One process does it at a time, from where the last one ended (``Cursor``), so that no row is counted twice. The map and
the charts read these rows only.

=====================  =============================================================
``event:<type>``       events, and their time in the outbox
``queue:<reaction>``   done deliveries, and their time in the queue
``handle:<reaction>``  done deliveries, and their time in the reaction
``fail:<reaction>``    attempts that failed or waited
``park:<reaction>``    deliveries that were parked
``flow:<end>``         flows that ended, and their time from the first event to the last
=====================  =============================================================
"""

from collections import Counter, defaultdict
from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import Any

from django.db import transaction
from django.db.models import QuerySet

from choreography.core import clock
from journal.contracts import declarations
from journal.latency import between, bucket_of
from journal.models import ALIAS, Cursor, Entry, Flow, Minute, Outcome

#: Rows counted in one transaction, at most.
_ROWS = 5_000
#: Transactions do not commit in the order of their keys: what is younger may have a gap before it.
_SETTLED_AFTER = timedelta(seconds=5)

Found = tuple[datetime, str, float | None]


def count(model: type[Entry] | type[Outcome]) -> int:
    """Count the next rows of a table. Returns how many."""
    until = clock.now() - _SETTLED_AFTER
    name = model.__name__.lower()
    with transaction.atomic(using=ALIAS):
        Cursor.objects.get_or_create(name=name)
        cursor = Cursor.objects.select_for_update().get(name=name)
        newer: QuerySet[Any] = model._default_manager.filter(pk__gt=cursor.position).order_by("pk")
        rows = [*(newer.defer("body") if model is Entry else newer)[:_ROWS]]
        settled = [row for row in rows if row.recorded_at <= until]
        # The first that is too young ends it: an older one may still come before it.
        young = next((row.pk for row in rows if row.recorded_at > until), None)
        counted = [row for row in settled if young is None or row.pk < young]
        if not counted:
            return 0
        _add(_of_entries(counted) if model is Entry else _of_outcomes(counted))
        cursor.position = counted[-1].pk
        cursor.save()
    return len(counted)


def _of_entries(entries: Iterable[Entry]) -> Iterable[Found]:
    ended = set()
    for entry in entries:
        yield entry.announced_at, f"event:{entry.type}", between(entry.announced_at, entry.published_at)
        if declarations().end_of(entry.type) is not None:
            ended.add(entry.flow)
    for flow in Flow.objects.filter(pk__in=ended):
        if flow.end_at is not None:
            yield flow.end_at, f"flow:{flow.end}", between(flow.started_at, flow.end_at)


def _of_outcomes(outcomes: Iterable[Outcome]) -> Iterable[Found]:
    for outcome in outcomes:
        match outcome.what:
            case "done":
                began = outcome.started_at or outcome.received_at
                # Of a later attempt most would be the time on the retry ladder.
                waited = between(outcome.published_at, began) if outcome.attempt == 1 else None
                yield outcome.ended_at, f"queue:{outcome.reaction}", waited
                yield outcome.ended_at, f"handle:{outcome.reaction}", between(outcome.started_at, outcome.ended_at)
            case "retried" | "waiting":
                yield outcome.ended_at, f"fail:{outcome.reaction}", None
            case "parked":
                yield outcome.ended_at, f"park:{outcome.reaction or outcome.service}", None


def _add(found: Iterable[Found]) -> None:
    counts: Counter[tuple[datetime, str]] = Counter()
    times: dict[tuple[datetime, str], Counter[str]] = defaultdict(Counter)
    for at, name, seconds in found:
        key = (at.replace(second=0, microsecond=0), name[:210])
        counts[key] += 1
        if seconds is not None:
            times[key][bucket_of(seconds)] += 1
    known = {
        (row.at, row.name): row
        for row in Minute.objects.filter(at__in={at for at, _ in counts}, name__in={name for _, name in counts})
    }
    rows = []
    for key in sorted(counts):
        row = known.get(key) or Minute(at=key[0], name=key[1])
        row.count += counts[key]
        row.times = dict(times[key] + Counter(row.times))
        rows.append(row)
    new, old = [row for row in rows if row.pk is None], [row for row in rows if row.pk is not None]
    Minute.objects.bulk_create(new)
    Minute.objects.bulk_update(old, ["count", "times"])
