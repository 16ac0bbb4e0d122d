"""Keep the outbox and the inbox small: rows that are done and old go, in bounded bites.

A bite looks at so many rows from the oldest on, by primary key, and removes those that are due. The next one goes on
behind what was removed, and the first that finds nothing ends it. So it costs the same whether the table holds a
thousand rows or tens of millions, and needs no index on a time. For that the order of the keys must be about the order
in which rows become due. It is, except while many events wait at the front: then purging waits too.
"""

from collections.abc import Iterable
from datetime import datetime
from typing import Any

from django.db import connections, transaction

from choreography.core import clock
from choreography.core.conf import conf
from choreography.storage.models import alias_of, table_of

#: Rows one bite looks at, so that no statement, no lock and no transaction lasts long.
_BITE = 1000


def purge(service: str) -> int:
    """Remove published outbox rows and inbox rows past their age. Waiting events and dead letters never go.

    How many events an order had is kept in ``Counted``, so that the next ``sequence`` is one more.

    Returns:
        How many rows were removed.
    """
    now = clock.now()
    announced = _in_bites(service, "Outbox", "published_at", now - conf().keep_outbox)
    return announced + _in_bites(service, "Inbox", "handled_at", now - conf().keep_inbox)


def _in_bites(service: str, table: str, done_at: str, before: datetime) -> int:
    removed, last = 0, 0
    while keys := _bite(service, table, done_at, before, last):
        removed, last = removed + len(keys), max(keys)
    return removed


def _bite(service: str, table: str, done_at: str, before: datetime, last: int) -> list[int]:
    """Remove what is due of the rows next to ``last``, in one transaction. Returns the keys of what was removed."""
    alias, meta = alias_of(service), table_of(service, table)._meta
    key, counted = meta.pk.column, "sequence" if table == "Outbox" else "NULL"
    with transaction.atomic(using=alias), connections[alias].cursor() as cursor:
        cursor.execute(
            f'DELETE FROM "{meta.db_table}" WHERE {key} IN (SELECT {key} FROM'  # noqa: S608 (names of ours)
            f' (SELECT {key}, {done_at} FROM "{meta.db_table}" WHERE {key} > %s ORDER BY {key} LIMIT %s) bite'
            f" WHERE {done_at} < %s) RETURNING {key}, subject, {counted}",
            [last, _BITE, connections[alias].ops.adapt_datetimefield_value(before)],
        )
        removed = cursor.fetchall()
        if table == "Outbox" and removed:
            _remember_counts(service, cursor, removed)
    return [row[0] for row in removed]


def _remember_counts(service: str, cursor: Any, removed: Iterable[tuple[int, Any, int]]) -> None:
    """Note the greatest sequence of each subject. An event that waited long may go after a later one of its order."""
    greatest: dict[Any, int] = {}
    for _, subject, sequence in removed:
        greatest[subject] = max(sequence, greatest.get(subject, 0))
    table = table_of(service, "Counted")._meta.db_table
    values = ", ".join(["(%s, %s)"] * len(greatest))
    cursor.execute(
        f'INSERT INTO "{table}" (subject, sequence) VALUES {values} ON CONFLICT (subject)'  # noqa: S608
        f' DO UPDATE SET sequence = excluded.sequence WHERE excluded.sequence > "{table}".sequence',
        [value for row in greatest.items() for value in row],
    )
