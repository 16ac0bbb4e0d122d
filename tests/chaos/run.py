"""One run, from the first order to the report."""

import json
import platform
import random
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from tests.chaos.faults import Faults, schedule
from tests.chaos.load import Load, under_load
from tests.chaos.options import Options
from tests.chaos.site import PROCESSES, Servers, Site, running_site

#: Says how things stand, to whoever watches.
Tell = Callable[[str], None]

#: Seconds in which, without faults, at least one more order is placed.
_PLACED_WITHIN = 60.0

#: Seconds without any change, nothing waiting anywhere, after which nothing can be expected to come any more; with a
#: protection switched off, where that is what happens.
_STILL, _STILL_WHEN_SABOTAGED = 40.0, 5.0

#: What a line in a log stands for in the report.
_COUNTED = {
    "reaction done": "reactions_done",
    "duplicate ignored": "duplicates_absorbed",
    "delivery retried": "retries",
    "delivery parked": "parked",
    "circuit opened": "circuits_opened",
}


@dataclass(frozen=True)
class Broken:
    """An invariant that does not hold."""

    kind: str
    """``lost``, ``doubled`` or ``violated``."""
    count: int
    examples: list[str]


@dataclass
class Report:
    """What came of a run. Times in seconds."""

    seed: int
    cluster: int
    """RabbitMQ nodes."""
    sabotage: str
    orders: dict[str, int] = field(default_factory=dict)
    """By how they stand in the end, and ``placed``: those the shop has said it took."""
    people: dict[str, int] = field(default_factory=dict)
    """What they did."""
    faults: dict[str, int] = field(default_factory=dict)
    """By kind; how many calls, commits and messages they hit."""
    deliveries: int = 0
    """Attempts at a reaction that were answered: done, absorbed, put off or parked."""
    reactions_done: int = 0
    duplicates_absorbed: int = 0
    retries: int = 0
    parked: int = 0
    circuits_opened: int = 0
    """Times a worker paused because what its service needs was down."""
    lost: int = 0
    doubled: int = 0
    violated: int = 0
    broken: dict[str, Broken] = field(default_factory=dict)
    """Invariants that do not hold, by name."""
    quiet: bool = False
    """Everything has settled."""
    placing_seconds: float = 0
    seconds_to_quiet: float = 0
    """From the end of the last fault, after which the last orders were still placed."""
    seconds: float = 0
    """From the first process to the report."""
    versions: dict[str, str] = field(default_factory=dict)

    @property
    def ok(self) -> bool:
        return self.quiet and not self.broken

    def to_json(self) -> str:
        return json.dumps({"ok": self.ok, **asdict(self)}, indent=2)


def run(options: Options, servers: Servers, tell: Tell) -> Report:
    """Place the orders, inject the faults, wait for quiet, and check.

    Raises:
        AssertionError: the run itself went wrong; nothing is said about the shop.
    """
    report = Report(options.seed, options.cluster, options.sabotage)
    started = time.monotonic()
    with _folder(options) as folder, running_site(servers, folder, options) as site:
        tell(f"every process is ready; logs in {folder}")
        load, last_fault, planted = _through_chaos(site, options, report, tell)
        still = _STILL_WHEN_SABOTAGED if options.sabotage else _STILL
        report.quiet = _wait_for_quiet(site, load, options.patience, still, tell)
        report.seconds_to_quiet = round(time.monotonic() - last_fault, 1)
        _check(site, load, planted, report)
        _end(site, report)
        _count(site, report)
        report.versions = _versions(site)
    report.seconds = round(time.monotonic() - started, 1)
    return report


def _through_chaos(site: Site, options: Options, report: Report, tell: Tell) -> tuple[Load, float, list[str]]:
    """All orders are placed while faults are injected; then there are no more.

    Also tells when the last one ended, and which messages must be found among the dead letters.
    """
    rng = random.Random(f"{options.seed}:faults")
    begun = time.monotonic()
    with under_load(site, options) as (load, check):

        def pause(seconds: float) -> None:
            deadline = time.monotonic() + seconds
            while True:
                site.supervise()
                check()
                left = deadline - time.monotonic()
                if left <= 0:
                    return
                time.sleep(min(left, 0.1))

        faults = Faults(site, rng, pause, options.parked_within)
        kinds = tuple(kind for kind in options.faults if site.pool or kind != "pool_restarted")
        planned = schedule(kinds, options.duration, rng)
        for number, (due, kind) in enumerate(planned):
            load.may_reach((number + 1) / (len(planned) + 1))
            pause(begun + due - time.monotonic())
            tell(f"{len(load.placed)} orders placed; {kind.replace('_', ' ')}")
            load.may_reach((number + 2) / (len(planned) + 1))
            faults.inject(kind)
        last_fault = time.monotonic()
        load.may_reach(1)
        _wait_until_placed(load, pause)
        report.placing_seconds = round(time.monotonic() - begun, 1)
    report.people = dict(load.counts)
    report.faults = dict(faults.counts)
    _note(report, "a_fault_costs_only_what_it_hits", "violated", faults.broken)
    return load, last_fault, faults.planted


def _wait_until_placed(load: Load, pause: Callable[[float], None]) -> None:
    placed, since = len(load.placed), time.monotonic()
    while not load.is_done:
        pause(0.1)
        if len(load.placed) > placed:
            placed, since = len(load.placed), time.monotonic()
        assert time.monotonic() - since < _PLACED_WITHIN, f"only {placed} orders could be placed"


def _wait_for_quiet(site: Site, load: Load, patience: float, still: float, tell: Tell) -> bool:
    """Every order has ended or needs a person, every event was heard, nothing waits. False: not in time, or never."""
    begun = changed = told = time.monotonic()
    seen: Any = None
    while True:
        site.supervise()
        now = time.monotonic()
        progress, waiting = site.ask("progress"), site.waiting()
        if not waiting and not progress["open"] and not progress["unpublished"] and not site.ask("unheard"):
            return True
        if waiting.keys() - {f"{site.namespace}journal"} or progress != seen:
            seen, changed = progress, now
        if now - changed > still or now - begun > patience:
            return False
        if now - told > 10:
            told = now
            tell(f"waiting for quiet: {progress} {waiting}")
        load.cancel_hopeless(site.ask("open_orders"))
        time.sleep(0.3)


def _check(site: Site, load: Load, planted: list[str], report: Report) -> None:
    """Everything that must hold now."""
    for name, found in site.ask("violations").items():
        report.broken[name] = Broken(**found)
    report.orders = {"placed": len(load.placed), **site.ask("ends")}
    # Nothing here is for a person: whatever went wrong was down for a while.
    _note(report, "nothing_is_parked_by_an_outage", "violated", site.ask("parked", but_for=planted))
    _note(report, "every_unusable_message_is_kept", "lost", site.ask("not_kept", bodies=planted))
    _note(report, "every_order_taken_is_stored", "lost", site.ask("missing", submissions=list(load.placed)))
    _note(report, "no_process_ends_by_itself", "violated", [f"{name}: {n} times" for name, n in site.ended.items()])
    if not report.quiet:
        still_open = [f"order {order['id']} is {order['status']}" for order in site.ask("open_orders")]
        _note(report, "everything_settles", "violated", still_open or [f"waiting: {site.waiting()}"])


def _end(site: Site, report: Report) -> None:
    """Every process ends when it is asked to."""
    hung = []
    for name in PROCESSES:
        site.shop[name].ask_to_end()
    for name in PROCESSES:
        try:
            site.shop.end(name)
        except AssertionError as error:
            hung.append(f"{name}: {str(error)[:500]}")
    _note(report, "every_process_ends_when_asked", "violated", hung)
    for broken in report.broken.values():
        setattr(report, broken.kind, getattr(report, broken.kind) + broken.count)


def _note(report: Report, name: str, kind: str, faults: list[str]) -> None:
    if faults:
        report.broken[name] = Broken(kind, len(faults), faults[:5])


def _count(site: Site, report: Report) -> None:
    """What the processes have written about deliveries and about calls that were made to go wrong."""
    counts, injected = Counter[str](), Counter[str](report.faults)
    for line in _log_lines(site.shop.folder.glob("*.log")):
        if line.get("event") in _COUNTED:
            counts[_COUNTED[line["event"]]] += 1
        elif line.get("event") == "fault injected":
            injected[f"calls_{line['fault']}"] += 1
    injected["commits_refused_in_all"] = site.commits_refused()
    report.faults = dict(sorted(injected.items()))
    report.deliveries = counts.total() - counts["circuits_opened"]
    for name, count in counts.items():
        setattr(report, name, count)


def _log_lines(logs: Iterable[Path]) -> Iterator[dict[str, Any]]:
    for log in logs:
        with log.open(errors="replace") as lines:
            for line in lines:
                if line.startswith("{"):
                    try:
                        yield json.loads(line)
                    except ValueError:  # half a line: whoever wrote it was killed
                        continue


def _versions(site: Site) -> dict[str, str]:
    with site.database("orders") as cursor, site.broker() as channel:
        cursor.execute("SHOW server_version")
        return {
            "postgresql": cursor.fetchone()[0].split()[0],
            "rabbitmq": str(channel.connection.server_properties["version"]),
            "python": platform.python_version(),
        }


@contextmanager
def _folder(options: Options) -> Iterator[Path]:
    """For the data and the logs of the run."""
    if options.folder is not None:
        options.folder.mkdir(parents=True)
        yield options.folder
    else:
        with tempfile.TemporaryDirectory(prefix="chaos-") as folder:
            yield Path(folder)
