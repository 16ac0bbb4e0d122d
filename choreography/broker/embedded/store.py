"""Exchanges, queues and messages in one SQLite file: the broker behind ``embedded://``.

Plain Python over sqlite3, in RabbitMQ's terms. Many processes and threads may share a file and any
of them may be killed at any moment: what ``publish`` returned for is still there, and what the dead
process held is delivered again. ``choreography.broker.embedded`` says what is not promised.

``Store(":memory:", now=clock)`` lives in one process and is deterministic: for simulations.

Of the queue arguments, x-message-ttl, x-expires, x-dead-letter-exchange, x-dead-letter-routing-key
and x-delivery-limit have an effect; others are only kept and compared. Unlike in RabbitMQ, a
message expires on time wherever it stands in its queue, and a queue's x-expires is put off by
declaring and consuming it, not by ``get``.
"""

import functools
import itertools
import json
import logging
import os
import sqlite3
import threading
import time
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from kombu.exceptions import ChannelError

from choreography.broker.embedded.messages import Stored, dumps, loads, topic_matches, with_death
from choreography.broker.embedded.processes import Processes

# No value gets into a statement as text: what is put together here is all written here.
# ruff: noqa: S608

__all__ = ["Binding", "QueueInfo", "Refused", "Store", "Stored"]

logger = logging.getLogger(__name__)

KINDS = frozenset({"direct", "topic", "fanout"})
#: How long a write waits for those of other processes.
BUSY_SECONDS = 30.0
#: How often each process looks for dead ones.
SWEEP_SECONDS = 1.0
#: A log or a file with more unused bytes than this is shrunk, the file by so many pages at a time.
SPARE_BYTES, _PAGES_AT_A_TIME = 8 * 2**20, 2048
#: How long shrinking the log waits for readers and writers, in milliseconds, before it is left for the next time.
_SHRINK_WAIT_MS = 100

_SCHEMA = """
CREATE TABLE IF NOT EXISTS exchange (name TEXT PRIMARY KEY, kind TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS queue (
    name TEXT PRIMARY KEY, arguments TEXT NOT NULL, auto_delete INTEGER NOT NULL,
    exclusive TEXT,  -- the owner it lives and dies with
    expires_at REAL  -- null while it has a consumer
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS queue_due ON queue (expires_at) WHERE expires_at IS NOT NULL;
CREATE TABLE IF NOT EXISTS binding (
    exchange TEXT, routing_key TEXT, queue TEXT, PRIMARY KEY (exchange, routing_key, queue)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS consumer (queue TEXT NOT NULL, owner TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS message (
    id INTEGER PRIMARY KEY AUTOINCREMENT,  -- never used twice, so a tag isn't either
    queue TEXT NOT NULL, exchange TEXT NOT NULL, routing_key TEXT NOT NULL, body BLOB NOT NULL,
    content_type TEXT, content_encoding TEXT, headers TEXT NOT NULL, properties TEXT NOT NULL,
    delivery_count INTEGER NOT NULL DEFAULT 0, expires_at REAL, owner TEXT
);
CREATE INDEX IF NOT EXISTS message_ready ON message (queue, id) WHERE owner IS NULL;
CREATE INDEX IF NOT EXISTS message_held ON message (owner, queue) WHERE owner IS NOT NULL;
CREATE INDEX IF NOT EXISTS message_due ON message (expires_at)
    WHERE owner IS NULL AND expires_at IS NOT NULL;
"""
_COLUMNS = "id, queue, exchange, routing_key, body, content_type, content_encoding, headers, properties, delivery_count"
_MESSAGE = f"SELECT {_COLUMNS} FROM message WHERE "
_READY = "queue = ? AND owner IS NULL"
_QUEUES = """
SELECT name, arguments,
    (SELECT count(*) FROM message WHERE queue = name AND owner IS NULL),
    (SELECT count(*) FROM message WHERE queue = name AND owner IS NOT NULL),
    (SELECT count(*) FROM consumer WHERE queue = name)
FROM queue"""
_DELIVERY = "id = ? AND delivery_count = ? AND owner IS NOT NULL"


class Refused(ChannelError):
    """What was asked for can't be. ``code`` is AMQP's.

    312 no queue takes it, 403 forbidden, 404 missing, 405 another connection's, 406 differs from what is there.
    """

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(reason, reply_code=code)
        self.code = code


class QueueInfo(NamedTuple):
    name: str
    arguments: dict[str, Any]
    ready: int
    unacked: int
    consumers: int


class Binding(NamedTuple):
    exchange: str
    routing_key: str
    queue: str


class Store:
    """One broker, for all threads of a process. A forked child gets a connection of its own.

    An *owner* (a channel, a connection) holds messages, consumers and exclusive queues. For a file
    take owners from ``new_owner``, others count as dead; in memory any string will do.
    """

    def __init__(self, path: str, *, now: Callable[[], float] = time.time) -> None:
        self.path = path
        self.now = now
        self._processes = None if path == ":memory:" else Processes(Path(f"{path}.owners"))
        self._lock = threading.RLock()
        self._db: sqlite3.Connection | None = None
        self._opened = self._writes = 0
        self._numbers = itertools.count(1)
        self._leaving: set[str] = set()
        self._next_sweep = 0.0
        with _fork_lock:
            _stores.add(self)

    # Topology

    def declare_exchange(self, name: str, kind: str) -> None:
        """Raises Refused: 406 where it exists with another kind, or there is no such kind."""
        if not name:
            raise Refused(403, 'The default exchange "" is always there and can\'t be declared.')
        if kind not in KINDS:
            raise Refused(406, f"Exchange {name!r}: use one of {sorted(KINDS)} instead of {kind!r}.")
        with self._writing() as db:
            db.execute("INSERT OR IGNORE INTO exchange VALUES (?, ?)", (name, kind))
            (found,) = db.execute("SELECT kind FROM exchange WHERE name = ?", (name,)).fetchone()
            if found != kind:
                raise Refused(406, f"Exchange {name!r} is {found}, not {kind}: delete it or declare it so.")

    def delete_exchange(self, name: str) -> None:
        with self._writing() as db:
            db.execute("DELETE FROM binding WHERE exchange = ?", (name,))
            db.execute("DELETE FROM exchange WHERE name = ?", (name,))

    def declare_queue(
        self,
        name: str,
        arguments: Mapping[str, Any] | None = None,
        *,
        auto_delete: bool = False,
        exclusive: str | None = None,
    ) -> None:
        """Make sure that there is this queue.

        Args:
            auto_delete: it goes when its last consumer leaves.
            exclusive: the owner who alone may use it; it goes when that owner leaves.

        Raises:
            Refused: 405 where it is another owner's, 406 where it exists with other properties, or these are wrong.
        """
        for argument in ("x-message-ttl", "x-expires", "x-delivery-limit"):
            value = (arguments or {}).get(argument, 0)
            if not isinstance(value, int) or value < 0:
                raise Refused(406, f"Queue {name!r}: {argument} is {value!r}, not a number from 0 up.")
        # What died or expired must not be in the way of its successor.
        self.sweep(at_once=exclusive is not None)
        self.expire()
        wanted = (json.dumps(dict(arguments or {}), sort_keys=True), int(auto_delete), exclusive)
        with self._writing() as db:
            find = "SELECT arguments, auto_delete, exclusive FROM queue WHERE name = ?"
            found = db.execute(find, (name,)).fetchone()
            if found is None:
                db.execute("INSERT INTO queue VALUES (?, ?, ?, ?, NULL)", (name, *wanted))
            elif found[2] not in (None, exclusive):
                raise Refused(405, f"Queue {name!r} is another connection's: use another name.")
            elif found != wanted:
                raise Refused(
                    406,
                    f"Queue {name!r} exists with (arguments, auto_delete, exclusive) = {found},"
                    f" not {wanted}: delete it (its messages go too) or declare it so.",
                )
            self._put_off_expiry(db, name)

    def delete_queue(self, name: str, *, if_unused: bool = False, if_empty: bool = False) -> int:
        """Delete a queue and its bindings. Returns how many ready messages went with it."""
        with self._writing() as db:
            ready = _count(db, f"message WHERE {_READY}", name)
            used = _count(db, "consumer WHERE queue = ?", name)
            if (if_empty and ready) or (if_unused and used):
                return 0
            _drop_queue(db, name)
            return ready

    def bind(self, queue: str, exchange: str, routing_key: str = "") -> None:
        """Raises Refused: 404 where the queue or the exchange is missing."""
        with self._writing() as db:
            _find(db, "queue", queue)
            _find(db, "exchange", exchange)
            row = (exchange, routing_key, queue)
            db.execute("INSERT OR IGNORE INTO binding VALUES (?, ?, ?)", row)

    def unbind(self, queue: str, exchange: str, routing_key: str = "") -> None:
        with self._writing() as db:
            which = "exchange = ? AND routing_key = ? AND queue = ?"
            db.execute(f"DELETE FROM binding WHERE {which}", (exchange, routing_key, queue))

    def queue(self, name: str) -> QueueInfo:
        """Raises Refused: 404 where it is missing."""
        for queue in self._queues("WHERE name = ?", name):
            return queue
        raise _missing("queue", name)

    def queues(self) -> list[QueueInfo]:
        return self._queues("ORDER BY name")

    def _queues(self, which: str, *values: str) -> list[QueueInfo]:
        self.expire()
        with self._reading() as db:
            rows = db.execute(f"{_QUEUES} {which}", values).fetchall()
        return [QueueInfo(name, json.loads(arguments), *counts) for name, arguments, *counts in rows]

    def exchange(self, name: str) -> str:
        """Its kind. Raises Refused: 404 where it is missing."""
        with self._reading() as db:
            return _find(db, "exchange", name)[1]

    def exchanges(self) -> dict[str, str]:
        """Name -> kind."""
        with self._reading() as db:
            return dict(db.execute("SELECT name, kind FROM exchange ORDER BY name").fetchall())

    def bindings(self) -> list[Binding]:
        with self._reading() as db:
            rows = db.execute("SELECT exchange, routing_key, queue FROM binding").fetchall()
            return [Binding(*row) for row in rows]

    # Messages

    def publish(
        self,
        exchange: str,
        routing_key: str,
        body: bytes,
        *,
        content_type: str | None = None,
        content_encoding: str | None = None,
        headers: Mapping[str, Any] | None = None,
        properties: Mapping[str, Any] | None = None,
        expiration_ms: int | None = None,
    ) -> int:
        """Put a message into every queue it is routed to. Returns how many: with 0 it is dropped.

        Headers and properties hold what JSON does, and bytes, datetime and Decimal.

        Raises:
            Refused: 404 where the exchange is missing.
            sqlite3.OperationalError: the file can't be written; no queue has the message.
        """
        texts = (content_type, content_encoding, dumps(headers or {}), dumps(properties or {}))
        with self._writing() as db:
            return self._put(db, exchange, routing_key, bytes(body), texts, expiration_ms)

    def get(self, queues: Sequence[str], owner: str | None) -> Stored | None:
        """Take the oldest ready message of these queues and reserve it for ``owner``.

        Without an owner it is gone at once, as if acknowledged.
        """
        self.expire()
        take = "DELETE FROM message" if owner is None else "UPDATE message SET owner = :owner"
        take += f" WHERE id = :id AND owner IS NULL RETURNING {_COLUMNS}"
        oldest = f"SELECT min(id) FROM message WHERE {_READY}"
        while True:
            with self._reading() as db:
                ids = [db.execute(oldest, (queue,)).fetchone()[0] for queue in queues]
            first = min((id_ for id_ in ids if id_ is not None), default=None)
            if first is None:
                return None
            with self._writing() as db:
                taken = db.execute(take, {"id": first, "owner": owner}).fetchall()
            if taken:  # else another process was faster
                return _stored(taken[0])

    def ack(self, tag: str) -> bool:
        """Delete a reserved message. False: that delivery was over, its owner had left."""
        with self._writing() as db:
            return db.execute(f"DELETE FROM message WHERE {_DELIVERY}", _key(tag)).rowcount == 1

    def reject(self, tag: str, *, requeue: bool) -> bool:
        """Put a reserved message back where it stood, or dead-letter it. False: as for ``ack``."""
        with self._writing() as db:
            row = db.execute(_MESSAGE + _DELIVERY, _key(tag)).fetchone()
            if row is None:
                return False
            if requeue:
                self._put_back(db, _stored(row))
            else:
                self._dead_letter(db, _stored(row), "rejected")
            return True

    def size(self, queue: str) -> int:
        """How many messages are ready."""
        self.expire()
        with self._reading() as db:
            return _count(db, f"message WHERE {_READY}", queue)

    def purge(self, queue: str) -> int:
        """Delete the ready messages. Returns how many those were."""
        with self._writing() as db:
            return db.execute(f"DELETE FROM message WHERE {_READY}", (queue,)).rowcount

    # Owners

    def new_owner(self) -> str:
        """A name for someone in this process, who is gone when the process is."""
        with self._lock:
            number = str(next(self._numbers))
            return number if self._processes is None else f"{self._processes.me()}.{number}"

    def add_consumer(self, queue: str, owner: str) -> None:
        """Raises Refused: 404 where the queue is missing."""
        with self._writing() as db:
            _find(db, "queue", queue)
            db.execute("INSERT INTO consumer VALUES (?, ?)", (queue, owner))
            self._put_off_expiry(db, queue)

    def remove_consumer(self, queue: str, owner: str) -> None:
        with self._writing() as db:
            one = "SELECT rowid FROM consumer WHERE queue = ? AND owner = ? LIMIT 1"
            if db.execute(f"DELETE FROM consumer WHERE rowid = ({one})", (queue, owner)).rowcount:
                self._after_consumer(db, queue)

    def release(self, owner: str) -> int:
        """The owner leaves. What it held goes back, its consumers and exclusive queues go.

        Returns how many messages it held.
        """
        with self._writing() as db:
            left = db.execute("DELETE FROM consumer WHERE owner = ? RETURNING queue", (owner,))
            for (queue,) in left.fetchall():
                self._after_consumer(db, queue)
            held = db.execute(_MESSAGE + "owner = ? ORDER BY id", (owner,)).fetchall()
            for row in held:
                self._put_back(db, _stored(row))
            own = db.execute("SELECT name FROM queue WHERE exclusive = ?", (owner,)).fetchall()
            for (queue,) in own:
                _drop_queue(db, queue)
            return len(held)

    def leave(self, owner: str) -> None:
        """``release``, now or, where the file can't be written now, at the first ``sweep`` that can."""
        self._leaving.add(owner)
        try:
            self._release_leaving()
        except sqlite3.OperationalError as error:
            logger.warning("what a closed connection held goes back to its queue later: %s", error)

    def _release_leaving(self) -> None:
        for owner in list(self._leaving):
            self.release(owner)
            self._leaving.discard(owner)

    def sweep(self, *, at_once: bool = False) -> None:
        """Release what dead processes left behind; looks once a second, however often called."""
        if self._processes is None or (time.monotonic() < self._next_sweep and not at_once):
            return
        self._next_sweep = time.monotonic() + SWEEP_SECONDS
        self._release_leaving()
        with self._reading() as db:
            rows = db.execute(
                "SELECT owner FROM message WHERE owner IS NOT NULL UNION SELECT owner FROM consumer"
                " UNION SELECT exclusive FROM queue WHERE exclusive IS NOT NULL"
            ).fetchall()
            processes = {owner: owner.partition(".")[0] for (owner,) in rows}
            dead = self._processes.dead(processes.values())
        for owner, process in processes.items():
            if process in dead:
                held = self.release(owner)
                if held:
                    logger.warning("a process died: %d message(s) it held are delivered again", held)
        self._processes.bury(dead)
        self._shrink()

    def _shrink(self) -> None:
        """Give the disk back what a burst of messages took, in steps that delay nobody for long."""
        with self._reading() as db:
            page_size, unused = (db.execute(f"PRAGMA {name}").fetchone()[0] for name in ("page_size", "freelist_count"))
            log = Path(f"{self.path}-wal")
            is_log_large = log.exists() and log.stat().st_size > SPARE_BYTES
            if page_size * unused <= SPARE_BYTES and not is_log_large:
                return
            db.execute(f"PRAGMA busy_timeout = {_SHRINK_WAIT_MS}")
            try:
                if page_size * unused > SPARE_BYTES:
                    # As a script: it frees one page with each step, and Python takes but one.
                    db.executescript(f"PRAGMA incremental_vacuum({_PAGES_AT_A_TIME})")
                if is_log_large:
                    db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
            except sqlite3.OperationalError as error:
                logger.debug("not shrunk this time: %s", error)
            finally:
                db.execute(f"PRAGMA busy_timeout = {int(BUSY_SECONDS * 1000)}")

    # Time

    def expire(self) -> int:
        """Dead-letter the messages and delete the queues that are due. Returns how many messages."""
        now, due = self.now(), self.next_due()
        if due is None or due > now:
            return 0
        with self._writing() as db:
            over = "expires_at <= ? AND owner IS NULL ORDER BY expires_at, id"
            expired = db.execute(_MESSAGE + over, (now,)).fetchall()
            for row in expired:
                self._dead_letter(db, _stored(row), "expired")
            unused = db.execute("SELECT name FROM queue WHERE expires_at <= ?", (now,)).fetchall()
            for (queue,) in unused:
                _drop_queue(db, queue)
            return len(expired)

    def next_due(self) -> float | None:
        """When the next message or queue expires, by the store's clock."""
        with self._reading() as db:
            dues = db.execute(
                "SELECT min(expires_at) FROM message WHERE owner IS NULL AND expires_at IS NOT NULL"
                " UNION ALL SELECT min(expires_at) FROM queue WHERE expires_at IS NOT NULL"
            ).fetchall()
        return min((due for (due,) in dues if due is not None), default=None)

    def version(self) -> tuple[int, int, int]:
        """Differs from the last one when anyone has written since. Cheap enough to poll."""
        with self._reading() as db:
            return self._opened, db.execute("PRAGMA data_version").fetchone()[0], self._writes

    def close(self) -> None:
        """Leave, as if the process had ended: what its owners hold is swept by others."""
        with self._lock:
            self._disconnect()
            if self._processes is not None:
                self._processes.leave()

    # Inside a transaction

    def _put(
        self,
        db: sqlite3.Connection,
        exchange: str,
        routing_key: str,
        body: bytes,
        texts: tuple[str | None, str | None, str, str],
        expiration_ms: int | None,
    ) -> int:
        now = self.now()
        targets = _route(db, exchange, routing_key)
        for queue, arguments in targets.items():
            limits = (expiration_ms, _parsed(arguments).get("x-message-ttl"))
            ttl = min((limit for limit in limits if limit is not None), default=None)
            due = None if ttl is None else now + ttl / 1000
            db.execute(
                "INSERT INTO message (queue, exchange, routing_key, body, content_type,"
                " content_encoding, headers, properties, expires_at) VALUES (?,?,?,?,?,?,?,?,?)",
                (queue, exchange, routing_key, body, *texts, due),
            )
        return len(targets)

    def _put_back(self, db: sqlite3.Connection, message: Stored) -> None:
        limit = _parsed(_find(db, "queue", message.queue)[1]).get("x-delivery-limit")
        if limit is not None and message.delivery_count >= limit:
            self._dead_letter(db, message, "delivery_limit")
        else:
            back = "UPDATE message SET owner = NULL, delivery_count = delivery_count + 1"
            db.execute(f"{back} WHERE id = ?", _key(message.tag)[:1])

    def _dead_letter(self, db: sqlite3.Connection, message: Stored, reason: str) -> None:
        db.execute("DELETE FROM message WHERE id = ?", _key(message.tag)[:1])
        arguments = _parsed(_find(db, "queue", message.queue)[1])
        exchange = arguments.get("x-dead-letter-exchange")
        if exchange is None:
            return
        routing_key = arguments.get("x-dead-letter-routing-key", message.routing_key)
        # Its own expiration has done its work: it must not end the message again where it goes.
        properties = {k: v for k, v in message.properties.items() if k != "expiration"}
        headers = dumps(with_death(message, reason))
        texts = (message.content_type, message.content_encoding, headers, dumps(properties))
        try:
            reached = self._put(db, exchange, routing_key, message.body, texts, None)
        except Refused:
            reached = 0
        if not reached:
            logger.warning(
                "a message of queue %r (%s) is lost: its dead-letter exchange %r with key %r leads to no queue",
                *(message.queue, reason, exchange, routing_key),
            )

    def _after_consumer(self, db: sqlite3.Connection, queue: str) -> None:
        last = "auto_delete AND name NOT IN (SELECT queue FROM consumer)"
        if db.execute(f"SELECT 1 FROM queue WHERE name = ? AND {last}", (queue,)).fetchone():
            _drop_queue(db, queue)
        else:
            self._put_off_expiry(db, queue)

    def _put_off_expiry(self, db: sqlite3.Connection, queue: str) -> None:
        row = db.execute("SELECT arguments FROM queue WHERE name = ?", (queue,)).fetchone()
        ttl = None if row is None else _parsed(row[0]).get("x-expires")
        if ttl is not None:
            used = _count(db, "consumer WHERE queue = ?", queue)
            due = None if used else self.now() + ttl / 1000
            db.execute("UPDATE queue SET expires_at = ? WHERE name = ?", (due, queue))

    # The connection

    @contextmanager
    def _reading(self) -> Iterator[sqlite3.Connection]:
        with self._lock:
            if self._db is None:
                self._db = self._connect()
                self._opened += 1
            yield self._db

    @contextmanager
    def _writing(self) -> Iterator[sqlite3.Connection]:
        """One transaction: on its end all of it is in the file, or nothing."""
        with self._reading() as db:
            try:
                db.execute("BEGIN IMMEDIATE")
                yield db
                db.execute("COMMIT")
            except BaseException:
                if db.in_transaction:
                    db.execute("ROLLBACK")
                raise
            self._writes += 1

    def _connect(self) -> sqlite3.Connection:
        if self._processes is None:
            return self._set_up()
        # SQLite doesn't wait when two processes turn on WAL at once.
        with self._processes.alone():
            return self._set_up()

    def _set_up(self) -> sqlite3.Connection:
        db = sqlite3.connect(self.path, timeout=BUSY_SECONDS, isolation_level=None, check_same_thread=False)
        # Survives the death of any process; a power cut may take the last moments.
        db.execute("PRAGMA auto_vacuum = INCREMENTAL")  # before the file has tables: later it has no effect
        db.execute("PRAGMA journal_mode = WAL")
        db.execute("PRAGMA synchronous = NORMAL")
        db.executescript(_SCHEMA)
        return db

    def _disconnect(self) -> None:
        if self._db is not None:
            self._db.close()
            self._db = None

    # SQLite's file locks don't survive a fork, not even unused: no connection may be open then.

    def _before_fork(self) -> None:
        self._lock.acquire()
        if self._processes is not None:
            self._disconnect()

    def _after_fork(self, in_child: bool) -> None:
        if in_child and self._processes is not None:
            self._processes.forget()
        self._lock.release()


def _route(db: sqlite3.Connection, exchange: str, routing_key: str) -> dict[str, str]:
    """The queues a message goes to, each once, with their arguments."""
    if not exchange:
        find = "SELECT name, arguments FROM queue WHERE name = ?"
        return dict(db.execute(find, (routing_key,)).fetchall())
    kind = _find(db, "exchange", exchange)[1]
    rows = db.execute(
        "SELECT routing_key, name, arguments FROM binding JOIN queue ON name = queue WHERE exchange = ? ORDER BY name",
        (exchange,),
    ).fetchall()
    return {
        name: arguments
        for key, name, arguments in rows
        if kind == "fanout" or key == routing_key or (kind == "topic" and topic_matches(key, routing_key))
    }


def _find(db: sqlite3.Connection, table: str, name: str) -> tuple[str, str]:
    """The row of a queue (name, arguments) or an exchange (name, kind)."""
    column = "arguments" if table == "queue" else "kind"
    row = db.execute(f"SELECT name, {column} FROM {table} WHERE name = ?", (name,)).fetchone()
    if row is None:
        raise _missing(table, name)
    return row[0], row[1]


def _missing(what: str, name: str) -> Refused:
    return Refused(404, f"There is no {what} {name!r}: declare it first.")


def _drop_queue(db: sqlite3.Connection, name: str) -> None:
    for table in ("message", "binding", "consumer"):
        db.execute(f"DELETE FROM {table} WHERE queue = ?", (name,))
    db.execute("DELETE FROM queue WHERE name = ?", (name,))


def _count(db: sqlite3.Connection, what: str, name: str) -> int:
    return int(db.execute(f"SELECT count(*) FROM {what}", (name,)).fetchone()[0])


def _key(tag: str) -> tuple[int, int]:
    id_, _, delivery_count = tag.partition(".")
    return int(id_), int(delivery_count)


def _stored(row: tuple[Any, ...]) -> Stored:
    id_, queue, exchange, routing_key, body, content_type, encoding, headers, properties, count = row
    tag = f"{id_}.{count}"
    return Stored(
        tag, queue, exchange, routing_key, body, content_type, encoding, loads(headers), loads(properties), count
    )


@functools.lru_cache(maxsize=1024)
def _parsed(arguments: str) -> dict[str, Any]:
    """Not to be changed: everyone gets the same."""
    return dict(json.loads(arguments))


_stores: weakref.WeakSet[Store] = weakref.WeakSet()
_forking: list[Store] = []
_fork_lock = threading.Lock()


def _before_fork() -> None:
    _fork_lock.acquire()
    _forking[:] = _stores
    for store in _forking:
        store._before_fork()


def _after_fork(in_child: bool) -> None:
    while _forking:
        _forking.pop()._after_fork(in_child)
    _fork_lock.release()


os.register_at_fork(
    before=_before_fork,
    after_in_parent=lambda: _after_fork(in_child=False),
    after_in_child=lambda: _after_fork(in_child=True),
)
