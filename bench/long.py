"""The long ones (LONG=1): a queue of 100,000 orders, memory over time, and tables full of old rows."""

import time
from contextlib import closing
from pathlib import Path

import psycopg2

from bench.meters import median
from bench.runs import PATIENCE, WARM_UP, Running, WrongResult, backlog, running, verify
from bench.servers import Servers, ask
from bench.systems import SERVICES, System

#: Orders after which memory is looked at for the first time, and the deliveries each of them takes.
EARLY, DELIVERIES = 1000, 8
#: Backlogs before and after the inboxes are filled.
REPEATS = 3


def long_queue(system: System, servers: Servers, folder: Path, name: str, orders: int) -> dict[str, float]:
    """Have everything placed before anybody works, then watch it being worked off.

    Returns:
        ``first_tenth`` and ``last_tenth``: deliveries per second (rows that enter the inboxes: an order's eight come in
        waves, so completed orders say nothing about the speed), ``early_megabytes`` and ``late_megabytes``: the
        largest worker after as many deliveries as a thousand orders take and at the end; and the ratio of each pair.

    Raises:
        WrongResult: not every order was completed.
    """
    with running(system, servers, folder, name) as it:
        it.placer.place(orders)
        it.start()
        seen, early = _watch(it, orders)
        late = _largest_worker(it)
        verify(it.place, orders)
    first, last = _rate(seen, 0.0, 0.1), _rate(seen, 0.9, 1.0)
    return {
        "first_tenth": first,
        "last_tenth": last,
        "rate_ratio": last / first,
        "early_megabytes": early,
        "late_megabytes": late,
        "memory_ratio": late / early,
    }


def full_inbox(system: System, servers: Servers, folder: Path, name: str, orders: int, rows: int) -> dict[str, float]:
    """Orders per second of a backlog with no old rows in the inboxes, and with so many in each: the same processes.

    Returns:
        ``empty`` and ``full``, medians of ``REPEATS``, and their ``ratio``.
    """
    with running(system, servers, folder, name) as it:
        it.start()
        it.wait_until_it_listens()
        it.placer.place(WARM_UP)
        it.complete(WARM_UP)
        empty = median([backlog(it, orders) for _ in range(REPEATS)])
        _fill(it.place.database, rows)
        full = median([backlog(it, orders) for _ in range(REPEATS)])
        verify(it.place, WARM_UP + 2 * REPEATS * orders)
    return {"empty": empty, "full": full, "ratio": full / empty}


def _watch(it: Running, orders: int) -> tuple[list[tuple[float, int]], float]:
    """Look every second. Returns (time, deliveries so far) each time, and the largest worker's size early on."""
    seen = [(time.monotonic(), 0)]
    early = 0.0
    moved = time.monotonic()
    while (completed := it.completed()) < orders:
        if not early and seen[-1][1] >= min(EARLY, orders // 10) * DELIVERIES:
            early = _largest_worker(it)
        time.sleep(1.0)
        seen.append((time.monotonic(), _deliveries(it)))
        if seen[-1][1] > seen[-2][1]:
            moved = time.monotonic()
        elif time.monotonic() - moved > PATIENCE:
            raise WrongResult(f"{it.system.title} stopped at {completed} of {orders} orders")
    seen.append((time.monotonic(), _deliveries(it)))
    return seen, early or _largest_worker(it)


def _rate(seen: list[tuple[float, int]], low: float, high: float) -> float:
    """Deliveries per second between two shares of all of them."""
    total = seen[-1][1]
    start = max((moment for moment in seen if moment[1] <= low * total), key=lambda moment: moment[0])
    end = min((moment for moment in seen if moment[1] >= high * total), key=lambda moment: moment[0])
    return (end[1] - start[1]) / max(end[0] - start[0], 1e-9)


def _deliveries(it: Running) -> int:
    """How many rows have entered the inboxes, as their sequences know at once and without counting."""
    count = "SELECT CASE WHEN is_called THEN last_value ELSE 0 END FROM {}_inbox_id_seq"
    return sum(int(ask(it.place.watching, count.format(service))[0][0]) for service in SERVICES)


def _largest_worker(it: Running) -> float:
    return max(size for name, size in it.memory().items() if name.startswith("worker"))


def _fill(database: str, rows: int) -> None:
    """Fill the shop's inboxes with rows as they would be after a long time: ids sorted by time."""
    with closing(psycopg2.connect(database)) as connection:
        connection.autocommit = True
        with connection.cursor() as sql:
            for service in SERVICES:
                sql.execute(
                    f"INSERT INTO {service}_inbox (event_id, reaction, event_type, subject, handled_at, attempts)"
                    " SELECT (lpad(to_hex(1700000000000 + n), 12, '0') || '7' || substr(md5(n::text), 1, 19))::uuid"
                    ", 'old.reaction', 'old.event.v1', gen_random_uuid(), now() - interval '1 day', 1"
                    " FROM generate_series(1, %s) n",
                    (rows,),
                )
                sql.execute(f"VACUUM ANALYZE {service}_inbox")
            sql.execute("CHECKPOINT")
