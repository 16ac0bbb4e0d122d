"""Only one copy of a delivery at a time may ask the outside world, and only one tick of a timer may run.

The broker may hand one message to two workers: a relay published it twice, or a lost connection made it come again
while it was still being handled. The inbox keeps the second from taking effect, but only once the first has. Between
the two the outside world could be asked after the answer "nothing happened" was recorded, and nobody would ever look
at what it did. So whoever asks holds a claim until the effect is committed, and a copy waits.

A claim ends with the process that holds it: it is an advisory lock of the PostgreSQL session, elsewhere a lock on a
file, which the kernel frees.
"""

import fcntl
import hashlib
import os
import threading
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from uuid import UUID

from django.conf import settings
from django.db import DatabaseError, connections

#: Files the claims share where the database has no advisory locks. Two claims that fall on one file only wait.
_FILES = 256

_mine: set[str] = set()
_mine_lock = threading.Lock()


@contextmanager
def claimed(alias: str, who: str, event_ids: Iterable[UUID]) -> Iterator[frozenset[UUID]]:
    """Hold the claims on these events for one reaction (``who``).

    Yields:
        Those that are held. Of the others another copy is being handled.
    """
    names = {event_id: f"{who}:{event_id}" for event_id in event_ids}
    with _mine_lock:
        free = {event_id: name for event_id, name in names.items() if name not in _mine}
        _mine.update(free.values())
    try:
        lock = _in_database if connections[alias].vendor == "postgresql" else _in_files
        with lock(alias, free) as held:
            yield held
    finally:
        _mine.difference_update(free.values())


@contextmanager
def _in_database(alias: str, names: dict[UUID, str]) -> Iterator[frozenset[UUID]]:
    keys = {_key(name): event_id for event_id, name in names.items()}
    try:
        held = _ask(alias, "SELECT key FROM unnest(%s::bigint[]) key WHERE pg_try_advisory_lock(key)", list(keys))
    except DatabaseError:
        connections[alias].close()  # some may be held: they go with the session
        raise
    try:
        yield frozenset(keys[key] for key in held)
    finally:
        try:
            _ask(alias, "SELECT pg_advisory_unlock(key) FROM unnest(%s::bigint[]) key", held)
        except DatabaseError:
            connections[alias].close()  # the locks go with the session


def _ask(alias: str, query: str, keys: list[int]) -> list[int]:
    with connections[alias].cursor() as cursor:
        cursor.execute(query, [keys])
        return [first for (first, *_) in cursor.fetchall()]


@contextmanager
def _in_files(alias: str, names: dict[UUID, str]) -> Iterator[frozenset[UUID]]:
    folder = Path(settings.DATA_DIR) / "run"
    folder.mkdir(parents=True, exist_ok=True)
    by_file: dict[int, list[UUID]] = {}
    for event_id, name in names.items():
        by_file.setdefault(_key(name) % _FILES, []).append(event_id)
    held: list[UUID] = []
    with ExitStack() as stack:
        for number, event_ids in by_file.items():
            descriptor = os.open(folder / f"{alias}.claim-{number}", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            stack.callback(os.close, descriptor)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                continue
            held += event_ids
        yield frozenset(held)


def _key(name: str) -> int:
    """A number of 64 bits, signed, for PostgreSQL."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], signed=True)
