"""Keep the outbox and the inbox small: rows that are done and old are deleted in bounded batches.

A batch looks at a fixed number of rows from the oldest on, by primary key, and deletes those that are due. The next one
continues after the last deleted row, and the first that finds nothing ends the purge. So a purge costs the same whether
the table holds a thousand rows or tens of millions, and needs no index on a time. It relies on rows becoming due in
about the order of their keys. They do, unless many events wait at the front: then purging waits too.
"""

from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import Any

from django.db import connections, transaction

from choreography.core import clock
from choreography.core.conf import conf
from choreography.storage.tables import ServiceTables

#: Rows one batch looks at, so that no statement, no lock and no transaction lasts long.
_BATCH = 1000
#: Age at which claims and notes on suspects are deleted that dead processes have left behind.
_LEFT_BEHIND = timedelta(days=1)


def purge(service: str) -> int:
    """Delete published outbox rows and inbox rows past their age. Waiting events and dead letters are never deleted.

    The last ``sequence`` of each subject is kept in ``SubjectCounter``, so that the next one is one more.

    Returns:
        How many rows were deleted.
    """
    now = clock.now()
    published = _in_batches(service, "outbox", "published_at", now - conf().keep_outbox)
    tables = ServiceTables(service)
    tables.claims.filter(until__lt=now - _LEFT_BEHIND).delete()
    tables.suspects.filter(last_at__lt=now - _LEFT_BEHIND).delete()
    return published + _in_batches(service, "inbox", "handled_at", now - conf().keep_inbox)


def _in_batches(service: str, table: str, done_at: str, before: datetime) -> int:
    deleted, last = 0, 0
    while keys := _delete_batch(service, table, done_at, before, last):
        deleted, last = deleted + len(keys), max(keys)
    return deleted


def _delete_batch(service: str, table: str, done_at: str, before: datetime, last: int) -> list[int]:
    """Delete what is due of the rows after ``last``, in one transaction. Returns the keys of the deleted rows."""
    tables = ServiceTables(service)
    alias, meta = tables.alias, getattr(tables, table).model._meta
    key, counted = meta.pk.column, "sequence" if table == "outbox" else "NULL"
    with transaction.atomic(using=alias), connections[alias].cursor() as cursor:
        cursor.execute(
            f'DELETE FROM "{meta.db_table}" WHERE {key} IN (SELECT {key} FROM'  # noqa: S608 (names of ours)
            f' (SELECT {key}, {done_at} FROM "{meta.db_table}" WHERE {key} > %s ORDER BY {key} LIMIT %s) batch'
            f" WHERE {done_at} < %s) RETURNING {key}, subject, {counted}",
            [last, _BATCH, connections[alias].ops.adapt_datetimefield_value(before)],
        )
        deleted = cursor.fetchall()
        if table == "outbox" and deleted:
            _keep_sequences(tables, cursor, deleted)
    return [row[0] for row in deleted]


def _keep_sequences(tables: ServiceTables, cursor: Any, deleted: Iterable[tuple[int, str, int]]) -> None:
    """Keep the greatest sequence of each subject. An event that waited long may go after a later one of its subject."""
    greatest: dict[str, int] = {}
    for _, subject, sequence in deleted:
        greatest[subject] = max(sequence, greatest.get(subject, 0))
    table = tables.counters.model._meta.db_table
    values = ", ".join(["(%s, %s)"] * len(greatest))
    cursor.execute(
        f'INSERT INTO "{table}" (subject, sequence) VALUES {values} ON CONFLICT (subject)'  # noqa: S608
        f' DO UPDATE SET sequence = excluded.sequence WHERE excluded.sequence > "{table}".sequence',
        [value for row in greatest.items() for value in row],
    )
