"""Claims: only one copy of a delivery at a time may call an external system, and only one tick of a timer may run.

The broker may deliver one message to two workers: a relay published it twice, or a lost connection caused a redelivery
while it was still being handled. The inbox keeps the second copy from taking effect, but only after the first has
committed. Before that, the second copy could call the external system although the first one is about to commit that
nothing was called, and nobody would ever learn what the call did. So a claim is taken before the call and kept until
the commit, and a copy waits.

A claim ends with the process that has it: it is an advisory lock of the PostgreSQL session, elsewhere a lock on a
file, which the kernel releases.
"""

import fcntl
import hashlib
import os
import threading
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from uuid import UUID

from django.db import DatabaseError, connections

from choreography.core.conf import conf

#: Lock files, where the database has no advisory locks. Claims share them; two claims on one file wait for each other.
_FILES = 256

_mine: set[str] = set()
_mine_lock = threading.Lock()


@contextmanager
def claimed(alias: str, who: str, event_ids: Iterable[UUID]) -> Iterator[frozenset[UUID]]:
    """Take the claims on these events for one reaction (``who``), until the block ends.

    Yields:
        The events that were claimed. A copy of each of the others is being handled.
    """
    names = {event_id: f"{who}:{event_id}" for event_id in event_ids}
    with _mine_lock:
        free = {event_id: name for event_id, name in names.items() if name not in _mine}
        _mine.update(free.values())
    try:
        lock = _in_database if connections[alias].vendor == "postgresql" else _in_files
        with lock(alias, free) as claims:
            yield claims
    finally:
        _mine.difference_update(free.values())


@contextmanager
def _in_database(alias: str, names: dict[UUID, str]) -> Iterator[frozenset[UUID]]:
    keys = {_key(name): event_id for event_id, name in names.items()}
    try:
        granted = _query(alias, "SELECT key FROM unnest(%s::bigint[]) key WHERE pg_try_advisory_lock(key)", list(keys))
    except DatabaseError:
        connections[alias].close()  # some may have been granted: they end with the session
        raise
    try:
        yield frozenset(keys[key] for key in granted)
    finally:
        try:
            _query(alias, "SELECT pg_advisory_unlock(key) FROM unnest(%s::bigint[]) key", granted)
        except DatabaseError:
            connections[alias].close()  # the locks end with the session


def _query(alias: str, query: str, keys: list[int]) -> list[int]:
    with connections[alias].cursor() as cursor:
        cursor.execute(query, [keys])
        return [first for (first, *_) in cursor.fetchall()]


@contextmanager
def _in_files(alias: str, names: dict[UUID, str]) -> Iterator[frozenset[UUID]]:
    folder = conf().data_dir / "run"
    folder.mkdir(parents=True, exist_ok=True)
    by_file: dict[int, list[UUID]] = {}
    for event_id, name in names.items():
        by_file.setdefault(_key(name) % _FILES, []).append(event_id)
    granted: list[UUID] = []
    with ExitStack() as stack:
        for number, event_ids in by_file.items():
            descriptor = os.open(folder / f"{alias}.claim-{number}", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            stack.callback(os.close, descriptor)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                continue
            granted += event_ids
        yield frozenset(granted)


def _key(name: str) -> int:
    """A number of 64 bits, signed, for PostgreSQL."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], signed=True)
