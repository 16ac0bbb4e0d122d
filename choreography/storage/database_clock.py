"""The time of the database, for all processes that share one: their hosts' clocks may differ by hours."""

from typing import Any

import structlog
from django.db import DatabaseError

from choreography.core import clock

log = structlog.get_logger(__name__)


def take_time(connection: Any, **kwargs: Any) -> None:
    """Set this process's clock by a database server. Django calls it for every new connection (``connection_created``).

    SQLite has no clock of its own: its file is on this host.
    """
    if connection.vendor != "postgresql":
        return
    before = clock.system.now()
    try:
        with connection.connection.cursor() as cursor:
            cursor.execute("SELECT clock_timestamp()")
            [now] = cursor.fetchone()
    except DatabaseError as error:
        log.warning("the database's time is unknown", error=type(error).__name__)
        return
    clock.system.set(now)
    difference = (clock.system.now() - before).total_seconds()
    if abs(difference) >= _WORTH_SAYING:
        log.warning("clock set by the database", alias=connection.alias, seconds=round(difference))


#: Seconds of difference that are logged.
_WORTH_SAYING = 5
