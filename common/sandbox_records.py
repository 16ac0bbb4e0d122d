"""The file in which a sandbox records what it did. Many processes and threads write to it at once.

A sandbox plays an external system, so its records are kept apart from the service's tables: only then can the two be
compared. SQLite in WAL mode, one connection per thread.
"""

import os
import sqlite3
import tempfile
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from weakref import WeakSet

BUSY_SECONDS = 30.0
"""How long a writer waits for its turn before ``sqlite3.OperationalError: database is locked``."""


class _Mine(threading.local):
    connection: sqlite3.Connection | None = None


class Records:
    """The file at ``path``. Its first use makes it, with its folders and ``schema`` (SQL)."""

    def __init__(self, path: Path, schema: str) -> None:
        self._path = path
        self._schema = schema
        self._mine = _Mine()
        _in_use.add(self)

    @contextmanager
    def writing(self) -> Iterator[sqlite3.Connection]:
        """One transaction, alone in the file from beginning to commit; an exception undoes it."""
        with self._connection() as db:
            # IMMEDIATE: what is read here must still hold when it is written.
            db.execute("BEGIN IMMEDIATE")
            yield db

    def rows(self, query: str, *parameters: object) -> list[sqlite3.Row]:
        """What a SELECT finds, with columns by name."""
        return self._connection().execute(query, parameters).fetchall()

    def close(self) -> None:
        """Close this thread's connection. The next use opens another."""
        if self._mine.connection is not None:
            self._mine.connection.close()
            self._mine.connection = None

    def _connection(self) -> sqlite3.Connection:
        if self._mine.connection is None:
            if not self._path.exists():
                self._create()
            self._mine.connection = _connect(self._path)
        return self._mine.connection

    def _create(self) -> None:
        # Made under another name, then linked: when two processes turn one new file to WAL at once,
        # SQLite answers "locked" to one of them without waiting.
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=self._path.parent) as folder:
            draft = Path(folder) / self._path.name
            with closing(_connect(draft)) as db:
                db.execute("PRAGMA journal_mode = WAL")
                db.executescript(self._schema)
            with suppress(FileExistsError):  # Another process was first; its file is as good.
                os.link(draft, self._path)


def _connect(path: Path) -> sqlite3.Connection:
    db = sqlite3.connect(path, timeout=BUSY_SECONDS, isolation_level=None)
    db.row_factory = sqlite3.Row
    # In WAL mode enough to survive the kill of any process.
    db.execute("PRAGMA synchronous = NORMAL")
    return db


_in_use: WeakSet[Records] = WeakSet()


def _close_all() -> None:
    for records in list(_in_use):
        records.close()


# SQLite's locks don't survive a fork, and a child can't tell: close before Celery forks its pool.
os.register_at_fork(before=_close_all)
