"""The command: many seeds on several processes, progress on a terminal, a report, and the story of what failed."""

import argparse
import gc
import json
import multiprocessing
import os
import signal
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from choreography.simulation.actions import Schedule, numbers, only
from choreography.simulation.shrinking import shrink
from choreography.storage.tables import ServiceTables
from shop.preparation import migrate
from tests.shop_in_a_box import SERVICES, WITH_JOURNAL
from tests.simulation.figures import Figures, Lines, LinesVisited, missing, possible_pairs, to_visit
from tests.simulation.planted import PLANTS, planted
from tests.simulation.run import History, Simulator, memory, simulator
from tests.simulation.schedule import schedule_of

#: Seeds a process runs before it reports.
_AT_ONCE = 5


@dataclass(frozen=True)
class Asked:
    """What the command line asks for."""

    seeds: int
    first_seed: int
    jobs: int
    only: frozenset[int] | None
    plant: str
    seconds: float
    cover: bool
    json: bool
    no_journal: bool

    @property
    def journal(self) -> bool:
        """Whether the shop keeps a journal. Bugs are planted in the services."""
        return not (self.no_journal or self.plant)

    def schedule(self, seed: int) -> Schedule:
        schedule = schedule_of(seed, WITH_JOURNAL["SERVICES"] if self.journal else SERVICES)
        return schedule if self.only is None else only(schedule, self.only)


def run(arguments: Sequence[str]) -> int:
    """Do it.

    Returns:
        0 if no invariant was violated, 1 if one was, or a line was not visited where all had to be; 130 after Ctrl-C.
        (argparse exits with 2.)
    """
    asked = _parse(arguments)
    started = time.monotonic()
    with tempfile.TemporaryDirectory(dir=memory(), prefix="simulation-") as folder:
        try:
            figures, failed = _run_all(asked, Path(folder))
            report = _report(asked, figures, failed, time.monotonic() - started)
            if failed:
                report["failure"] = _shortened(asked, failed, Path(folder))
        except KeyboardInterrupt:
            sys.stderr.write("\nstopped\n")
            return 130
    sys.stdout.write(json.dumps(report, indent=2) + "\n" if asked.json else _in_words(report))
    return 1 if failed or (asked.cover and report["lines"]["missing"]) else 0


# Running


class _Runner:
    """What runs seeds in one process."""

    def __init__(self, asked: Asked, folder: Path) -> None:
        self._asked = asked
        self._open = ExitStack()
        for service in WITH_JOURNAL["SERVICES"]:
            migrate(ServiceTables(service).alias)
        self.simulator: Simulator = self._open.enter_context(
            simulator(folder / str(os.getpid()), journal=asked.journal)
        )
        if asked.plant:
            self._open.enter_context(planted(asked.plant))
        self._visited = LinesVisited(_all_lines_visited)
        # What is there now stays; histories make little rubbish that reference counting leaves.
        gc.freeze()
        gc.set_threshold(50_000, 20, 20)

    def run(self, seeds: Sequence[int]) -> tuple[list[History], Lines]:
        """Run these seeds, as far as the first that fails. Also returns the lines visited so far."""
        histories = []
        self._visited.start()
        for seed in seeds:
            histories.append(self.simulator.run(self._asked.schedule(seed), seed))
            if histories[-1].violation:
                break
        self._visited.stop()
        return histories, self._visited.lines

    def close(self) -> None:
        self._open.close()


#: The runner of a process of its own.
_runner: _Runner
#: Tells the processes that together they have visited every line.
_all_lines_visited = multiprocessing.get_context("fork").Event()


def _begin_apart(asked: Asked, folder: Path) -> None:
    """In a process of its own, which leaves Ctrl-C to the one that started it."""
    global _runner
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _runner = _Runner(asked, folder)


def _run_apart(seeds: Sequence[int]) -> tuple[list[History], Lines]:
    return _runner.run(seeds)


def _run_all(asked: Asked, folder: Path) -> tuple[Figures, History | None]:
    """All seeds, or until one fails. Of several that do, returns the one with the lowest number."""
    figures, failed = Figures(), None
    seeds = range(asked.first_seed, asked.first_seed + asked.seeds)
    chunks = [seeds[begin : begin + _AT_ONCE] for begin in range(0, len(seeds), _AT_ONCE)]
    started = time.monotonic()
    for histories, lines in _answers(asked, folder, chunks):
        figures.add_lines(lines)
        if not missing(figures.lines):
            _all_lines_visited.set()
        for history in histories:
            figures.add(history)
            if history.violation and (failed is None or history.seed < failed.seed):
                failed = history
        if sys.stderr.isatty():
            speed = figures.orders / (time.monotonic() - started)
            sys.stderr.write(f"\r{figures.seeds}/{asked.seeds} seeds, {figures.orders} orders, {speed:.0f}/s \033[K")
        if failed:
            break
    if sys.stderr.isatty():
        sys.stderr.write("\r\033[K")
    return figures, failed


def _answers(asked: Asked, folder: Path, chunks: Sequence[Sequence[int]]) -> Iterator[tuple[list[History], Lines]]:
    jobs = min(asked.jobs, len(chunks))
    if jobs == 1:
        runner = _Runner(asked, folder)
        try:
            yield from (runner.run(chunk) for chunk in chunks)
        finally:
            runner.close()
        return
    pool = ProcessPoolExecutor(
        jobs, multiprocessing.get_context("fork"), initializer=_begin_apart, initargs=(asked, folder)
    )
    try:
        futures: list[Future[tuple[list[History], Lines]]] = [pool.submit(_run_apart, chunk) for chunk in chunks]
        for future in as_completed(futures):
            yield future.result()
    finally:
        pool.shutdown(cancel_futures=True)


def _shortened(asked: Asked, failed: History, folder: Path) -> dict[str, Any]:
    """The failure with the shortest story that shows it."""
    assert failed.violation
    if sys.stderr.isatty():
        sys.stderr.write(f"seed {failed.seed} fails; looking for a shorter story\n")
    runner = _Runner(asked, folder)
    try:

        def fails(schedule: Schedule) -> bool:
            violation = runner.simulator.run(schedule, failed.seed).violation
            return violation is not None and violation.invariant == failed.violation.invariant  # type: ignore[union-attr]

        schedule = shrink(asked.schedule(failed.seed), fails, asked.seconds)
        history = runner.simulator.run(schedule, failed.seed)
    finally:
        runner.close()
    violation = history.violation or failed.violation
    replay = f"make simulate FIRST_SEED={failed.seed} SEEDS=1 ONLY={','.join(map(str, numbers(schedule)))}"
    return {
        "seed": failed.seed,
        "invariant": violation.invariant,
        "detail": violation.detail,
        "story": history.story,
        "replay": replay + (f" PLANT={asked.plant}" if asked.plant else ""),
        "schedule": [repr(action) for action in schedule],
    }


# Telling


def _report(asked: Asked, figures: Figures, failed: History | None, seconds: float) -> dict[str, Any]:
    left, pairs = missing(figures.lines), possible_pairs()
    return {
        "seeds": figures.seeds,
        "first_seed": asked.first_seed,
        "orders": figures.orders,
        "seconds": round(seconds, 1),
        "orders_per_second": round(figures.orders / seconds, 1),
        "jobs": asked.jobs,
        "orders_by_end": dict(sorted(figures.ends.items())),
        "deliveries_by_outcome": dict(sorted(figures.outcomes.items())),
        "batches_by_size": {str(size): count for size, count in sorted(figures.batches.items())},
        "lines": {
            "visited": to_visit() - sum(len(lines) for lines in left.values()),
            "all": to_visit(),
            "missing": {module: sorted(lines) for module, lines in sorted(left.items())},
        },
        "pairs": {
            service: {
                "visited": sum(pair[0] == service for pair in figures.pairs & pairs),
                "all": sum(pair[0] == service for pair in pairs),
                "missing": [f"{a} before {b}" for of, a, b in sorted(pairs - figures.pairs) if of == service],
            }
            for service in SERVICES
        },
        "violated": failed.violation.invariant if failed and failed.violation else None,
        "digest": figures.digest,
        "story": figures.last_story if asked.seeds == 1 else None,
    }


def _in_words(report: dict[str, Any]) -> str:
    lines, failure = report["lines"], report.get("failure")
    if failure:
        return "\n".join(
            [
                f"Seed {failure['seed']} violates {failure['invariant']}: {failure['detail']}",
                "",
                *failure["story"],
                "",
                f"Again: {failure['replay']}",
                "To keep it as a test:",
                *(f"    {action}," for action in failure["schedule"]),
                "",
            ]
        )
    pairs = ", ".join(f"{service} {of['visited']} of {of['all']}" for service, of in report["pairs"].items())
    missing_lines = "".join(f"\n  not visited: {module} {numbers}" for module, numbers in lines["missing"].items())
    return "\n".join(
        [
            *(report["story"] or ()),
            f"{report['seeds']} seeds from {report['first_seed']}, {report['orders']} orders in {report['seconds']} s"
            f" ({report['orders_per_second']}/s, {report['jobs']} process(es)): no invariant is violated.",
            f"Orders: {_counts(report['orders_by_end'])}",
            f"Deliveries: {_counts(report['deliveries_by_outcome'])}",
            f"Batches: {', '.join(f'{count} of {size}' for size, count in report['batches_by_size'].items())}",
            f"Lines of the services visited: {lines['visited']} of {lines['all']}{missing_lines}",
            f"Pairs of events heard one before the other: {pairs}",
            f"Digest: {report['digest']}",
            "",
        ]
    )


def _counts(counts: dict[str, int]) -> str:
    return ", ".join(f"{count} {name.lower()}" for name, count in counts.items())


def _parse(arguments: Sequence[str]) -> Asked:
    parser = argparse.ArgumentParser("python -m tests.simulation", description=__doc__)
    parser.add_argument("--seeds", type=_positive, default=300, help="how many (%(default)s)")
    parser.add_argument("--first-seed", type=int, default=1, help="the first (%(default)s)")
    parser.add_argument("--jobs", type=_positive, default=os.cpu_count() or 1, help="processes (one per core)")
    parser.add_argument("--only", type=_numbers, help="the actions that happen: 3,7,12 (all)")
    parser.add_argument("--plant", choices=sorted(PLANTS), default="", help="a bug on purpose (none)")
    parser.add_argument("--seconds", type=float, default=30.0, help="to make a failing story shorter (%(default)s)")
    parser.add_argument("--cover", action="store_true", help="fail unless every line of the reactions was visited")
    parser.add_argument("--no-journal", action="store_true", help="three services alone")
    parser.add_argument("--json", action="store_true", help="report for programs")
    return Asked(**vars(parser.parse_args(arguments)))


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{number} is not 1 or more")
    return number


def _numbers(text: str) -> frozenset[int]:
    return frozenset(int(number) for number in text.split(","))
