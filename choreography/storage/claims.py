"""Claims: only one copy of a delivery at a time may call an external system, and only one tick of a timer may run.

The broker may deliver one message to two workers: a relay published it twice, or a lost connection caused a redelivery
while it was still being handled. The inbox keeps the second copy from taking effect, but only after the first has
committed. Before that, the second copy could call the external system although the first one is about to commit that
nothing was called, and nobody would ever learn what the call did. So a claim is taken before the call and kept until
the commit, and a copy waits.

A claim is a row with an owner and a time at which it ends. A thread of the process puts that time off for as long as
the process lives. So nothing depends on a database session, which a connection pool such as PgBouncer gives to another
client after each transaction. Should a claim end too early, ``Claims.settle`` finds out, and nothing is committed.
"""

import os
import threading
import time
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any
from uuid import UUID, uuid4

import structlog
from django.db import DatabaseError, InterfaceError, connections, transaction

from choreography.core import clock
from choreography.core.errors import ClaimEnded
from choreography.storage.tables import ServiceTables

log = structlog.get_logger(__name__)

#: How long a claim outlives its process.
LEASE = timedelta(seconds=5)
#: Seconds after which a claim that is still needed is put off, again and again.
_RENEW_EVERY = 1.5


class Claims:
    """What ``claimed`` has got."""

    def __init__(self, tables: ServiceTables, who: str) -> None:
        self._tables, self._who = tables, who
        self._owner = uuid4()
        self._since = time.monotonic()
        self.event_ids: frozenset[UUID] = frozenset()
        """The events that were claimed. A copy of each of the others is being handled."""
        self._left: set[UUID] = set()

    def settle(self, event_ids: Collection[UUID]) -> None:
        """Give claims up, in the transaction that records what they were for.

        Raises:
            ClaimEnded: they have ended too early, and a copy may have been handled meanwhile.
        """
        if self._delete(event_ids) < len(event_ids):
            raise ClaimEnded(f"{self._who} took longer than its claim was kept")
        transaction.on_commit(lambda: self._left.difference_update(event_ids), using=self._tables.alias)

    def take(self, event_ids: Iterable[UUID]) -> None:
        """Claim those that no other has claimed."""
        keys = {self._key(event_id): event_id for event_id in event_ids}
        if not keys:
            return
        model = self._tables.claims.model
        table, connection = model._meta.db_table, connections[self._tables.alias]
        now, until = (self._prepared("until", moment) for moment in (clock.now(), clock.now() + LEASE))
        owner = self._prepared("owner", self._owner)
        # In the order of the keys, so that two who take the same ones don't deadlock.
        rows = [value for key in sorted(keys) for value in (key, owner, until)]
        with connection.cursor() as cursor:
            cursor.execute(
                f'INSERT INTO "{table}" (key, owner, until) VALUES {", ".join(["(%s, %s, %s)"] * len(keys))}'  # noqa: S608
                f" ON CONFLICT (key) DO UPDATE SET owner = excluded.owner, until = excluded.until"
                f' WHERE "{table}".until < %s RETURNING key',
                [*rows, now],
            )
            self.event_ids = frozenset(keys[key] for (key,) in cursor.fetchall())
        self._left = set(self.event_ids)

    def release(self) -> None:
        """Give up what is left. Where the database can't be reached, the claims end by themselves."""
        try:
            self._delete(self._left)
        except (DatabaseError, InterfaceError) as error:
            log.warning("claims not released", who=self._who, error=type(error).__name__)

    @property
    def is_old(self) -> bool:
        """They have been needed for some time."""
        return time.monotonic() - self._since >= _RENEW_EVERY

    def renew(self) -> None:
        """Put off their end."""
        self._tables.claims.filter(owner=self._owner).update(until=clock.now() + LEASE)

    def _delete(self, event_ids: Collection[UUID]) -> int:
        if not event_ids:
            return 0
        table = self._tables.claims.model._meta.db_table
        places = ", ".join(["%s"] * len(event_ids))
        with connections[self._tables.alias].cursor() as cursor:
            cursor.execute(
                f'DELETE FROM "{table}" WHERE key IN ({places}) AND owner = %s',  # noqa: S608
                [*sorted(map(self._key, event_ids)), self._prepared("owner", self._owner)],
            )
            return int(cursor.rowcount)

    def _key(self, event_id: UUID) -> str:
        return f"{self._who}:{event_id}"

    def _prepared(self, name: str, value: object) -> Any:
        field: Any = self._tables.claims.model._meta.get_field(name)
        return field.get_db_prep_value(value, connections[self._tables.alias])


@contextmanager
def claimed(service: str, who: str, event_ids: Iterable[UUID]) -> Iterator[Claims]:
    """Take the claims on these events for one reaction or timer (``who``), until they are settled or the block ends."""
    claims = Claims(ServiceTables(service), who)
    claims.take(event_ids)
    _kept.add(claims)
    try:
        yield claims
    finally:
        _kept.discard(claims)
        claims.release()


class _Kept:
    """The claims of this process, which a thread renews."""

    def __init__(self) -> None:
        self._claims: set[Claims] = set()
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None

    def add(self, claims: Claims) -> None:
        with self._lock:
            self._claims.add(claims)
            if self._thread is None:
                self._thread = threading.Thread(target=self._renew_forever, name="renew-claims", daemon=True)
                self._thread.start()

    def discard(self, claims: Claims) -> None:
        with self._lock:
            self._claims.discard(claims)

    def all(self) -> list[Claims]:
        with self._lock:
            return [*self._claims]

    def _renew_forever(self) -> None:
        while True:
            time.sleep(_RENEW_EVERY)
            try:
                for each in self.all():
                    if each.is_old:
                        each.renew()
            except (DatabaseError, InterfaceError) as error:
                log.warning("claims not renewed", error=type(error).__name__)
            finally:
                connections.close_all()  # those of this thread: calls that take so long are rare


_kept = _Kept()


def renew_all() -> None:
    """Put off the end of all claims of this process, as its thread does while time passes."""
    for each in _kept.all():
        each.renew()


def _forget() -> None:
    """The claims of a parent are not ours, and its thread is not here."""
    global _kept
    _kept = _Kept()


os.register_at_fork(after_in_child=_forget)
