"""One system, once: in an empty place, warmed up, then measured idle, in bulk, or at rates that are equal for all."""

import os
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import amqp
import psycopg2

from bench.meters import bytes_moved, cpu_seconds, percentile, resident_megabytes
from bench.pipeline import connect
from bench.placer import Placer
from bench.servers import Place, Servers, ask
from bench.systems import SERVICES, System
from tests.processes import Process, eventually

WARM_UP = 10
#: Seconds a run may go on without an order completing.
PATIENCE = 60.0
#: A system survives a rate if all of an order but its delivery is done so many seconds after the last order, at most.
BEHIND = 2.0


class WrongResult(Exception):
    """A system did not do what all were to do. Its figures would mean nothing."""


@dataclass
class Run:
    """What one run of one system showed. Times in seconds, memory in MB."""

    system: str
    orders: int
    orders_per_second: float = 0.0
    """From the first order placed to the last one completed."""
    backlog_per_second: float = 0.0
    """All placed while nobody worked; from when everybody starts again to the last one completed."""
    placed_per_second: float = 0.0
    idle: dict[str, float] = field(default_factory=dict)
    """p50, p95 and p99 of placed to completed, one order at a time."""
    idle_authorized: dict[str, float] = field(default_factory=dict)
    """The same to where orders has seen the authorization."""
    cpu_per_order: dict[str, float] = field(default_factory=dict)
    """``system`` (its own processes), ``placer``, ``postgresql``, ``rabbitmq``, and all of it."""
    statements_per_order: float = 0.0
    """Everything the database was asked, BEGIN and COMMIT included."""
    commits_per_order: float = 0.0
    wal_per_order: float = 0.0
    """Bytes of PostgreSQL's write-ahead log."""
    broker_bytes_per_order: float = 0.0
    """What RabbitMQ's process has read and written, to sockets and files."""
    memory: dict[str, float] = field(default_factory=dict)
    """Per process, after the bulk."""
    completions: list[float] = field(default_factory=list)
    """When each order of the bulk was completed, counted from its first placement."""
    round: int = 1
    rows: dict[str, int] = field(default_factory=dict)
    parked: list[tuple[Any, ...]] = field(default_factory=list)
    """See ``parked``."""

    @property
    def memory_per_worker(self) -> float:
        return max(size for name, size in self.memory.items() if name.startswith("worker"))


class Running:
    """A system that is up."""

    def __init__(self, system: System, place: Place, folder: Path) -> None:
        self.system, self.place = system, place
        self._folder = folder
        self._environment = system.environment(place, folder)
        self.processes: dict[str, Process] = {}
        (folder / "var").mkdir(parents=True)
        if system.prepare is not None:
            system.prepare(place.database)
        self.placer = Placer(system.module, self._environment, folder / "placer.log")
        # One connection for all looks: a new one each time would cost the database as much as a dozen orders a second.
        self._watching = psycopg2.connect(place.watching)
        self._watching.autocommit = True

    def start(self, *names: str) -> None:
        """Start these processes, or all."""
        for name in names or tuple(self.system.commands):
            command = self.system.commands[name]
            self.processes[name] = Process(name, command, self._environment, self._folder / f"{name}.log")

    def wait_until_it_listens(self) -> None:
        eventually(lambda: self._lives() and all(map(self._is_consumed, self.system.queues)), 120, self._last_words)

    def complete(self, orders: int) -> None:
        """Wait until so many are completed.

        Raises:
            WrongResult: nothing has happened for a while.
        """
        done, since = 0, time.monotonic()
        while done < orders:
            before, done = done, self.completed()
            if done != before:
                since = time.monotonic()
            if not self._lives() or time.monotonic() - since > PATIENCE:
                raise WrongResult(f"{self.system.title} stopped at {done} of {orders} orders\n{self._last_words()}")
            time.sleep(0.05)

    def completed(self) -> int:
        return self._count("SELECT count(*) FROM bench_mark WHERE what = 'completed'")

    def announced(self) -> int:
        """Events in the outbox of orders, of ours."""
        return self._count("SELECT count(*) FROM orders_outbox")

    def published(self) -> int:
        """Those of them that the broker has confirmed."""
        return self._count("SELECT count(*) FROM orders_outbox WHERE published_at IS NOT NULL")

    def _count(self, query: str) -> int:
        with self._watching.cursor() as sql:
            sql.execute(query)
            return int(sql.fetchall()[0][0])

    def signal(self, number: int) -> None:
        """Send a signal to all of its processes and their children."""
        for pid in self.pids():
            os.killpg(pid, number)

    def pids(self) -> list[int]:
        return [process.pid for process in self.processes.values()]

    def memory(self) -> dict[str, float]:
        return {name: resident_megabytes(process.pid) for name, process in self.processes.items()}

    def stop(self) -> None:
        """There is nothing left to save."""
        self._watching.close()
        self.placer.close()
        for process in self.processes.values():
            process.kill()

    def _lives(self) -> bool:
        return all(process.lives for process in self.processes.values())

    def _is_consumed(self, queue: str) -> bool:
        with connect(self.place.broker) as connection:
            return waiting_in(connection, queue)[1] > 0

    def _last_words(self) -> str:
        return "\n".join(f"--- {name}\n{process.says()[-2000:]}" for name, process in self.processes.items())


@contextmanager
def running(system: System, servers: Servers, folder: Path, name: str) -> Iterator[Running]:
    """The system in a place of its own, with only its placer running. Nothing of it is left afterwards."""
    with ExitStack() as stack:
        place = stack.enter_context(servers.place(name))
        it = Running(system, place, folder / name)
        stack.callback(it.stop)
        yield it


def run(system: System, servers: Servers, folder: Path, name: str, orders: int, idle: int) -> Run:
    """Measure a system once.

    Args:
        name: of the place, unique in the benchmark.
        orders: placed in bulk, and once more as a backlog.
        idle: placed one at a time.

    Raises:
        WrongResult: not every order was completed as it should be.
    """
    with running(system, servers, folder, name) as it:
        it.start()
        it.wait_until_it_listens()
        it.placer.place(WARM_UP)
        it.complete(WARM_UP)
        result = Run(system.name, orders)
        alone = _one_at_a_time(it, idle)
        result.idle, result.idle_authorized = _spread(alone, "completed"), _spread(alone, "authorized")
        _bulk(it, servers, result)
        result.backlog_per_second = backlog(it, orders)
        placed = WARM_UP + idle + 2 * orders
        result.rows, result.parked = verify(it.place, placed), parked(it.place)
        return result


@dataclass
class AtRate:
    """How long orders took at a rate that was the same for everyone. Times in seconds."""

    system: str
    rate: float
    """Orders placed per second."""
    survived: bool
    """See ``BEHIND``."""
    authorized: dict[str, float]
    """p50, p95 and p99 of placed to authorized."""
    captured: dict[str, float]
    """The same to where orders has seen that the money is taken: all of an order but the wait for the parcel."""
    round: int = 1


def at_rates(
    system: System, servers: Servers, folder: Path, name: str, rates: Sequence[float], seconds: float
) -> list[AtRate]:
    """Place orders at rising rates, each for some seconds, until one is more than the system can bear.

    Raises:
        WrongResult: not every order was completed as it should be.
    """
    found: list[AtRate] = []
    with running(system, servers, folder, name) as it:
        it.start()
        it.wait_until_it_listens()
        it.placer.place(WARM_UP)
        placed = WARM_UP
        it.complete(placed)
        for rate in rates:
            count = max(round(rate * seconds), 20)
            ids = it.placer.place(count, rate)
            placed += count
            it.complete(placed)
            moments = _moments(it.place, ids)
            first, last = (pick(each["placed"] for each in moments) for pick in (min, max))
            is_behind = max(each["captured"] for each in moments) - last > BEHIND
            is_slow = last - first > count / rate * 1.1 + 0.5  # not even placing them can be done at that rate
            found.append(
                AtRate(
                    system.name,
                    rate,
                    not (is_behind or is_slow),
                    _spread(moments, "authorized"),
                    _spread(moments, "captured"),
                )
            )
            if not found[-1].survived:
                break
        verify(it.place, placed)
    return found


def _one_at_a_time(it: Running, count: int) -> list[dict[str, float]]:
    ids = []
    before = it.completed()
    for number in range(count):
        ids += it.placer.place(1)
        it.complete(before + number + 1)
    return _moments(it.place, ids)


def _bulk(it: Running, servers: Servers, result: Run) -> None:
    before = it.completed()
    ask(it.place.watching, "SELECT pg_stat_statements_reset()")
    meters: dict[str, Callable[[], float]] = {
        "system": lambda: cpu_seconds(*it.pids()),
        "placer": lambda: cpu_seconds(it.placer.pid),
        "postgresql": lambda: cpu_seconds(servers.postgresql_pid),
        "rabbitmq": lambda: cpu_seconds(servers.rabbitmq_pid),
    }
    spent = {name: -read() for name, read in meters.items()}
    wal, moved = -_wal_bytes(it.place), -bytes_moved(servers.rabbitmq_pid)
    ids = it.placer.place(result.orders)
    it.complete(before + result.orders)
    for name, read in meters.items():
        spent[name] += read()
    result.wal_per_order = (wal + _wal_bytes(it.place)) / result.orders
    result.broker_bytes_per_order = (moved + bytes_moved(servers.rabbitmq_pid)) / result.orders
    result.cpu_per_order = {name: seconds / result.orders for name, seconds in spent.items()}
    result.cpu_per_order["all"] = sum(result.cpu_per_order.values())
    result.memory = it.memory()
    statements, commits = ask(
        it.place.watching,
        "SELECT sum(calls), sum(calls) FILTER (WHERE query ILIKE 'commit%%') FROM pg_stat_statements s"
        " JOIN pg_database d ON d.oid = s.dbid WHERE datname = %s AND userid = 'postgres'::regrole",
        it.place.name,
    )[0]
    result.statements_per_order, result.commits_per_order = (
        float(statements) / result.orders, float(commits) / result.orders
    )  # fmt: skip
    moments = _moments(it.place, ids)
    start = min(each["placed"] for each in moments)
    ends = sorted(each["completed"] - start for each in moments)
    result.completions = ends
    result.orders_per_second = len(ends) / ends[-1]
    result.placed_per_second = len(ends) / (max(each["placed"] for each in moments) - start)


def _wal_bytes(place: Place) -> int:
    return int(ask(place.watching, "SELECT pg_wal_lsn_diff(pg_current_wal_lsn(), '0/0')::bigint")[0][0])


def backlog(it: Running, orders: int) -> float:
    """Orders per second where placing them costs nothing any more."""
    before = it.completed()
    it.signal(signal.SIGSTOP)
    ids = it.placer.place(orders)
    start = time.time()
    it.signal(signal.SIGCONT)
    it.complete(before + orders)
    return orders / (max(each["completed"] for each in _moments(it.place, ids)) - start)


def _moments(place: Place, ids: list[str]) -> list[dict[str, float]]:
    """When each order was placed, seen as authorized and completed: commit times, seconds since the epoch."""
    rows = ask(
        place.watching,
        """
        WITH moment AS (
            SELECT order_id, 'placed' AS what, pg_xact_commit_timestamp(xmin) AS at FROM orders_orderline
            UNION ALL SELECT order_id, what, pg_xact_commit_timestamp(xmin) FROM bench_mark
        )
        SELECT order_id, what, extract(epoch FROM min(at))::float8 FROM moment
        WHERE order_id = ANY(%s::uuid[]) GROUP BY order_id, what
        """,
        ids,
    )
    moments: dict[str, dict[str, float]] = {}
    for order_id, what, at in rows:
        moments.setdefault(str(order_id), {})[what] = at
    return list(moments.values())


def _spread(moments: list[dict[str, float]], until: str) -> dict[str, float]:
    taken = [each[until] - each["placed"] for each in moments]
    return {f"p{share}": percentile(taken, share / 100) for share in (50, 95, 99)}


def verify(place: Place, orders: int) -> dict[str, int]:
    """Count the rows, which must be the same for everyone.

    Raises:
        WrongResult: they are not, or an order is not completed, paid for and delivered.
    """
    expected = {
        "orders_order": orders,
        "orders_orderline": 2 * orders,
        "payments_payment": orders,
        "payments_entry": 2 * orders,
        "shipping_shipment": orders,
        "orders_order WHERE status = 'completed'": orders,
        "orders_order WHERE parcel <> '' AND authorized_at IS NOT NULL": orders,
        "payments_payment WHERE authorized = asked AND captured = asked": orders,
        "shipping_shipment WHERE state = 'delivered'": orders,
    }
    found = {what: int(ask(place.watching, f"SELECT count(*) FROM {what}")[0][0]) for what in expected}
    if found != expected:
        wrong = {what: count for what, count in found.items() if count != expected[what]}
        raise WrongResult(f"{place.name}: of {orders} orders {wrong}; parked: {parked(place)}")
    return {what: count for what, count in found.items() if " " not in what}


def parked(place: Place) -> list[tuple[Any, ...]]:
    """What the shop has parked: reaction, error, event type and how many. It should be nothing."""
    dead_letters = " UNION ALL ".join(f"SELECT reaction, error, event_type FROM {it}_deadletter" for it in SERVICES)
    return ask(place.watching, f"SELECT reaction, error, event_type, count(*) FROM ({dead_letters}) l GROUP BY 1, 2, 3")


def waiting_in(connection: Any, queue: str) -> tuple[int, int]:
    """Messages and consumers of a queue, (0, 0) if there is none."""
    channel = connection.channel()
    try:
        answer = channel.queue_declare(queue, passive=True)
    except amqp.NotFound:  # which has closed the channel
        return 0, 0
    channel.close()
    return answer.message_count, answer.consumer_count
