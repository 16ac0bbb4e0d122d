"""Where the time goes: ``python -m bench.profile [worker-payments] [300] [ours] [20]``.

Samples one process with py-spy while all of it works off a backlog, or handles orders placed at a rate, such as 20 per
second. Prints what an order costs each process, in which parts of the code the one was at work, in which packages,
which functions it was in (a function counts once per sample, with all it called), and which statements the database
was asked per order.
"""

import re
import signal
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from operator import itemgetter
from pathlib import Path

from bench.meters import cpu_seconds
from bench.runs import WARM_UP, running, verify
from bench.servers import ask, own_servers
from bench.systems import all_systems

_SHOWN = 40

#: Part -> what its frames look like. A sample belongs to the innermost frame that looks like one.
_PARTS = {
    "driver: send a statement, fetch its rows": r"\b(_execute\w*|fetch\w+|_commit|_rollback) \(django/db/backends",
    "connection checked before each task": r"\b(close_old_connections|close_if\w+|is_usable) \(django/db",
    "ORM: build SQL, make objects": r"django/db|asgiref",
    "Celery's events for Flower": r"celery/events",
    "logging": r"structlog|logging/__init__",
    "contracts: read and write events": r"pydantic|choreography/events",
    "Celery: run a task (trace)": r"celery/app/trace|celery/concurrency|concurrent/futures",
    "publish to the broker": r"choreography/broker",
    "our consumer: address and unpack": r"choreography/worker",
    "Celery: take, acknowledge, event loop": r"celery/worker|kombu/asynchronous",
    "delivery, outbox, claims of ours": r"choreography/",
    "the services' own code": r"^.*\((orders|payments|shipping)/",
}


def main(process: str, orders: int, system: str, rate: float) -> None:
    with (
        tempfile.TemporaryDirectory(prefix="profile-") as name,
        own_servers(Path(name)) as servers,
        running(all_systems()[system], servers, Path(name), "profile") as it,
    ):
        it.start()
        it.wait_until_it_listens()
        it.placer.place(WARM_UP)
        it.complete(WARM_UP)
        if not rate:
            it.signal(signal.SIGSTOP)
            it.placer.place(orders)
            it.signal(signal.SIGCONT)
        ask(it.place.watching, "SELECT pg_stat_statements_reset()")
        pids = {name: each.pid for name, each in it.processes.items()}
        pids |= {"placer": it.placer.pid, "PostgreSQL": servers.postgresql_pid, "RabbitMQ": servers.rabbitmq_pid}
        before = {name: cpu_seconds(pid) for name, pid in pids.items()}
        samples = Path(name) / "samples"
        with _sampling(it.processes[process].pid, samples):
            if rate:
                it.placer.place(orders, rate)
            it.complete(WARM_UP + orders)
        spent = {name: cpu_seconds(pid) - before[name] for name, pid in pids.items()}
        print(f"# {process} while {orders} orders are completed\n\n## processor time, ms per order\n")
        for what, seconds in sorted(spent.items(), key=itemgetter(1), reverse=True):
            print(f"{seconds / orders * 1000:7.2f}  {what}")
        print()
        _print_functions(samples.read_text())
        _print_statements(it.place.watching, orders)
        verify(it.place, WARM_UP + orders)


@contextmanager
def _sampling(pid: int, to: Path) -> Iterator[None]:
    """Only who holds the interpreter's lock counts: a thread that waits for the database or for work costs nothing."""
    spy = str(Path(sys.executable).with_name("py-spy"))
    options = ("--gil", "--format", "raw", "--rate", "200", "--duration", "100000", "--output", str(to))
    process = subprocess.Popen([spy, "record", *options, "--pid", str(pid)], stdout=subprocess.DEVNULL)
    try:
        yield
    finally:
        process.send_signal(signal.SIGINT)  # has it write what it has
        process.wait(30)


def _print_functions(samples: str) -> None:
    parts, inside, at_work = Counter[str](), Counter[str](), Counter[str]()
    for line in samples.splitlines():
        stack, _, count = line.rpartition(" ")
        frames = [re.sub(r":\d+\)$", ")", frame) for frame in stack.split(";")]
        for frame in set(frames):
            inside[frame] += int(count)
        at_work[_package(frames[-1])] += int(count)
        parts[_part(frames)] += int(count)
    everything = max(sum(at_work.values()), 1)
    for heading, counter in (
        ("by part", parts),
        ("at work itself, by package", at_work),
        ("inside, by function", inside),
    ):
        print(f"## {heading}\n")
        for what, samples_of in counter.most_common(_SHOWN):
            print(f"{samples_of / everything:6.1%}  {what}")
        print()


def _part(frames: list[str]) -> str:
    for frame in reversed(frames):
        for part, looks in _PARTS.items():
            if re.search(looks, frame):
                return part
    return "anything else"


def _package(frame: str) -> str:
    """``execute (django/db/models/sql/compiler.py)`` -> ``django/db``."""
    path = frame.rpartition("(")[2].rstrip(")")
    return "/".join(path.split("/")[: 2 if path.startswith("django") else 1])


def _print_statements(database: str, orders: int) -> None:
    rows = ask(
        database,
        r"""
        SELECT sum(calls)::float8, sum(total_exec_time), text FROM pg_stat_statements s
        JOIN pg_database d ON d.oid = s.dbid,
        LATERAL (SELECT regexp_replace(query, '\s+', ' ', 'g') AS line) whole,
        LATERAL (SELECT left(regexp_replace(line, '"s[0-9_x]+"', 's'), 90) AS text) short
        WHERE datname = current_database() AND userid = 'postgres'::regrole
        GROUP BY text ORDER BY 1 DESC LIMIT 60
        """,
    )
    print("## statements: calls per order, ms each, share of the execution time\n")
    total = sum(row[1] for row in rows)
    for calls, spent, query in rows:
        print(f"{calls / orders:6.1f}  {spent / calls:7.3f}  {spent / total:6.1%}  {query}")


if __name__ == "__main__":
    process, orders, system, rate = [*sys.argv[1:], *("worker-payments", "300", "ours", "0")[len(sys.argv) - 1 :]]
    main(process, int(orders), system, float(rate))
