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
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import UUID

from django.conf import settings
from django.db import DatabaseError, connections

from choreography.errors import NotYet

#: Files the claims share where the database has no advisory locks. Two claims that fall on one file only wait.
_FILES = 256

_mine: set[str] = set()
_mine_lock = threading.Lock()


@contextmanager
def claimed(alias: str, who: str, event_id: UUID) -> Iterator[None]:
    """Hold the claim on one event for one reaction (``who``).

    Raises:
        NotYet: another copy of the delivery is being handled.
    """
    name = f"{who}:{event_id}"
    with _mine_lock:
        if name in _mine:
            raise NotYet(f"another copy of {name} is being handled")
        _mine.add(name)
    try:
        lock = _in_database if connections[alias].vendor == "postgresql" else _in_file
        with lock(alias, name):
            yield
    finally:
        _mine.discard(name)


@contextmanager
def _in_database(alias: str, name: str) -> Iterator[None]:
    key = int.from_bytes(_digest(name)[:8], signed=True)
    with connections[alias].cursor() as cursor:
        cursor.execute("SELECT pg_try_advisory_lock(%s)", [key])
        if not cursor.fetchone()[0]:
            raise NotYet(f"another copy of {name} is being handled elsewhere")
    try:
        yield
    finally:
        try:
            with connections[alias].cursor() as cursor:
                cursor.execute("SELECT pg_advisory_unlock(%s)", [key])
        except DatabaseError:
            connections[alias].close()  # the lock goes with the session


@contextmanager
def _in_file(alias: str, name: str) -> Iterator[None]:
    folder = Path(settings.DATA_DIR) / "run"
    folder.mkdir(parents=True, exist_ok=True)
    number = int.from_bytes(_digest(name)[:2]) % _FILES
    descriptor = os.open(folder / f"{alias}.claim-{number}", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise NotYet(f"another copy of {name}, or its neighbour, is being handled") from None
        yield
    finally:
        os.close(descriptor)


def _digest(name: str) -> bytes:
    return hashlib.sha256(name.encode()).digest()
