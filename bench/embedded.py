"""The shop on nothing but files: SQLite and the embedded broker."""

import os
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from bench.placer import Placer
from bench.runs import PATIENCE, WrongResult
from bench.systems import SERVICES, all_systems
from tests.processes import ROOT, Process, clean_environment, eventually, make_tables

#: Deliveries that each order takes.
_DELIVERIES = 8
_PRODUCTS = """
from bench import sample
import django
django.setup()
from orders.models import Product
for key, sku, name, price, _ in sample.LINES:
    Product.objects.create(id=key, sku=sku, name=name, price=price, currency=sample.CURRENCY)
"""


class Files:
    """A shop whose databases and broker are files in one folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._system = all_systems()["ours"]
        self._environment = clean_environment(folder) | {
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "DEBUG": "false",
            "DJANGO_SETTINGS_MODULE": "shop.settings",
            "TRACK_PARCELS_SECONDS": "0.25",
            **self._system.settings,
        }
        self.processes: dict[str, Process] = {}
        (folder / "var").mkdir(parents=True)
        make_tables(self._environment, folder)
        self._run("manage.py", "declare_topology")
        self._run("-c", _PRODUCTS)
        self.placer = Placer(self._system.module, self._environment, folder / "placer.log")

    def start(self) -> None:
        for name, command in self._system.commands.items():
            self.processes[name] = Process(name, command, self._environment, self._folder / f"{name}.log")

    def stop(self) -> None:
        self.placer.close()
        for process in self.processes.values():
            process.kill()

    def completed(self) -> int:
        return self._count("orders", "SELECT count(*) FROM orders_order WHERE status = 'completed'")

    def handled(self) -> int:
        return sum(self._count(service, f"SELECT count(*) FROM {service}_inbox") for service in SERVICES)

    def complete(self, orders: int, each: float = 0.05) -> Iterator[tuple[float, int]]:
        """Wait until so many are completed. Gives moments, and how many deliveries were handled by then.

        Raises:
            WrongResult: nothing has happened for a while.
        """
        before, since = -1, time.monotonic()
        while self.completed() < orders:
            handled = self.handled()
            yield time.monotonic(), handled
            if handled != before:
                before, since = handled, time.monotonic()
            if time.monotonic() - since > PATIENCE:
                raise WrongResult(f"{self.completed()} of {orders} orders are completed")
            time.sleep(each)
        yield time.monotonic(), self.handled()

    def _count(self, service: str, query: str) -> int:
        path = self._folder / "var" / f"{service}.sqlite3"
        with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=30)) as database:
            return int(database.execute(query).fetchone()[0])

    def _run(self, *arguments: str) -> None:
        subprocess.run([sys.executable, *arguments], cwd=ROOT, env=self._environment, check=True)


@contextmanager
def files(folder: Path) -> Iterator[Files]:
    it = Files(folder)
    try:
        yield it
    finally:
        it.stop()


def measure(folder: Path, orders: int, queued: int) -> dict[str, float | None]:
    """Measure it once.

    Args:
        folder: for everything that is written.
        orders: placed in bulk.
        queued: orders whose events wait when the work begins.

    Returns:
        Orders completed per second in bulk, from the first placed to the last completed; and deliveries per second in
        the first and in the last tenth of the queue, with their ratio. ``None``: too few to tell.

    Raises:
        WrongResult: not every order was completed.
    """
    return {"orders_per_second": _bulk(folder / "bulk", orders), **_long_queue(folder / "queue", queued)}


def _bulk(folder: Path, orders: int) -> float:
    with files(folder) as shop:
        shop.start()
        shop.placer.place(1)
        [*_] = shop.complete(1)
        start = time.monotonic()
        shop.placer.begin(orders)
        *_, (end, _) = shop.complete(1 + orders)
        shop.placer.finish()
        return orders / (end - start)


def _long_queue(folder: Path, orders: int) -> dict[str, float | None]:
    """Deliveries per second, counted as rows that enter the inboxes."""
    with files(folder) as shop:
        shop.placer.place(orders)
        shop.start()
        eventually(lambda: shop.handled() > 0, 120, lambda: shop.processes["worker-orders"].says()[-2000:])
        seen = [*shop.complete(orders, each=0.5)]
    first, last = (_rate(seen, orders * _DELIVERIES, share) for share in (0.0, 0.9))
    return {"first_tenth": first, "last_tenth": last, "rate_ratio": last / first if first and last else None}


def _rate(seen: list[tuple[float, int]], deliveries: int, since: float) -> float | None:
    """Of the tenth of all deliveries that begins at a share of them; ``None`` if it went by too fast to be seen."""
    inside = [(at, count) for at, count in seen if since <= count / deliveries <= since + 0.1]
    if len(inside) < 2:
        return None
    (start, first), (end, last) = inside[0], inside[-1]
    return (last - first) / (end - start)
