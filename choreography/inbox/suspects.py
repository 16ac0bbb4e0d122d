"""Messages that end their worker's process: a fault in a native library, or memory that the kernel takes back.

When a process dies, the broker delivers again all that it had taken, and counts one delivery for each. So a message
that came back twice is suspect, also when it returns from the retry ladder. Suspects are handled, a few together, while
the process does nothing else, with a note for each written before and deleted afterwards. One that was begun and never
ended is handled alone from then on, and parked when that was too often. The others that came back with it take effect.
"""

from collections.abc import Mapping, Sequence

import structlog
from django.db import DatabaseError, InterfaceError, connections
from django.db.models import F

from choreography.core import clock
from choreography.core.errors import NotYet
from choreography.inbox.deliveries import ENDED_PROCESSES, Delivery, Outcome, RetryLater, Unhandled
from choreography.storage.tables import ServiceTables

log = structlog.get_logger(__name__)

#: So often a suspect is begun, and no more if it never ended.
ATTEMPTS = 3


def begin(deliveries: Sequence[Delivery]) -> list[Delivery]:
    """Note that suspects are begun.

    One on its own is given up if it was begun so often that it must be what ends the process.

    Returns:
        Those that may be handled now. Of several, those that were begun before may not: they may have ended the
        process, and are to be handled alone.
    """
    tables = ServiceTables(deliveries[0].service)
    by_key = {delivery.key: delivery for delivery in deliveries}
    try:
        if len(deliveries) > 1:
            for key in tables.suspects.filter(key__in=by_key).values_list("key", flat=True):
                del by_key[key]
        notes = _noted(tables, [*by_key])
    except (DatabaseError, InterfaceError) as error:  # they are about to wait for the database like any other
        log.warning("suspects not noted", service=tables.service, error=type(error).__name__)
        return [*deliveries]
    if len(deliveries) == 1:
        [delivery], [begun] = deliveries, notes
        about = {"service": delivery.service, "task": delivery.task, "key": delivery.key}
        log.warning("suspect handled alone", **about, begun=begun)
        if begun > ATTEMPTS:
            delivery.given_up = ENDED_PROCESSES
    elif by_key:
        log.warning("suspects handled", service=tables.service, task=deliveries[0].task, count=len(by_key))
    return [*by_key.values()]


def end(outcomes: Mapping[str, Outcome | Unhandled], service: str) -> None:
    """They did not end the process. Those that only wait, as for the claim of a process that died, were not begun.

    Args:
        outcomes: by the key of each delivery that was begun.
    """
    suspects = ServiceTables(service).suspects
    waits = [key for key, it in outcomes.items() if isinstance(it, RetryLater) and isinstance(it.error, NotYet)]
    try:
        suspects.filter(key__in=outcomes.keys() - set(waits)).delete()
        if waits:
            suspects.filter(key__in=waits, begun=1).delete()
            suspects.filter(key__in=waits).update(begun=F("begun") - 1)
    except (DatabaseError, InterfaceError) as error:
        log.warning("suspects not cleared", service=service, error=type(error).__name__)


def _noted(tables: ServiceTables, keys: Sequence[str]) -> list[int]:
    """Write or count up the notes. Returns how often each was begun, in any order."""
    if not keys:
        return []
    meta, connection = tables.suspects.model._meta, connections[tables.alias]
    now = connection.ops.adapt_datetimefield_value(clock.now())
    values = ", ".join(["(%s, 1, %s)"] * len(keys))
    with connection.cursor() as cursor:
        cursor.execute(
            f'INSERT INTO "{meta.db_table}" (key, begun, last_at) VALUES {values} ON CONFLICT (key)'  # noqa: S608
            f' DO UPDATE SET begun = "{meta.db_table}".begun + 1, last_at = excluded.last_at RETURNING begun',
            [parameter for key in sorted(keys) for parameter in (key, now)],
        )
        return [begun for (begun,) in cursor.fetchall()]
