"""Messages that end their worker's process: a fault in a native library, or memory that the kernel takes back.

When a process dies, the broker delivers again all that it had taken, and counts one delivery for each. So a message
that came back twice is suspect, also when it returns from the retry ladder. It is handled while the process does
nothing else, with a note written before and deleted afterwards. What was begun too often and never ended is parked. The
others that came back with it take effect.
"""

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


def begin(delivery: Delivery) -> None:
    """Note that a suspect is begun; give it up if it was so often that it must be what ends the process."""
    tables = ServiceTables(delivery.service)
    meta = tables.suspects.model._meta
    try:
        with connections[tables.alias].cursor() as cursor:
            cursor.execute(
                f'INSERT INTO "{meta.db_table}" (key, begun, last_at) VALUES (%s, 1, %s) ON CONFLICT (key)'  # noqa: S608
                f' DO UPDATE SET begun = "{meta.db_table}".begun + 1, last_at = excluded.last_at RETURNING begun',
                [delivery.key, connections[tables.alias].ops.adapt_datetimefield_value(clock.now())],
            )
            [begun] = cursor.fetchone()
    except (DatabaseError, InterfaceError) as error:  # it is about to wait for the database like any other
        log.warning("suspect not noted", service=delivery.service, error=type(error).__name__)
        return
    log.warning("suspect handled alone", service=delivery.service, task=delivery.task, key=delivery.key, begun=begun)
    if begun > ATTEMPTS:
        delivery.given_up = ENDED_PROCESSES


def end(delivery: Delivery, outcome: Outcome | Unhandled) -> None:
    """It did not end the process. If it only waits, as for the claim of a process that died, it was not begun."""
    note = ServiceTables(delivery.service).suspects.filter(key=delivery.key)
    try:
        if isinstance(outcome, RetryLater) and isinstance(outcome.error, NotYet):
            note.update(begun=F("begun") - 1)
        else:
            note.delete()
    except (DatabaseError, InterfaceError) as error:
        log.warning("suspect not cleared", service=delivery.service, error=type(error).__name__)
