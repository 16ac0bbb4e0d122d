"""What came of it: medians over the rounds, a table, a JSON file and a plot."""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

from bench.meters import median
from bench.runs import AtRate, Run
from bench.systems import System

#: Column -> what of a run stands in it, and by how much it is multiplied.
_COLUMNS: Mapping[str, Callable[[Run], float]] = {
    "orders/s": lambda run: run.orders_per_second,
    "backlog orders/s": lambda run: run.backlog_per_second,
    **{
        f"{label} {p} ms": lambda run, of=of, p=p: getattr(run, of)[p] * 1000  # type: ignore[misc]
        for label, of in (("idle", "idle"), ("authorized", "idle_authorized"))
        for p in ("p50", "p95", "p99")
    },
    "CPU ms/order": lambda run: run.cpu_per_order["all"] * 1000,
    "of its own": lambda run: run.cpu_per_order["system"] * 1000,
    "of PostgreSQL": lambda run: run.cpu_per_order["postgresql"] * 1000,
    "of RabbitMQ": lambda run: run.cpu_per_order["rabbitmq"] * 1000,
    "statements/order": lambda run: run.statements_per_order,
    "commits/order": lambda run: run.commits_per_order,
    "WAL KB/order": lambda run: run.wal_per_order / 1000,
    "broker KB/order": lambda run: run.broker_bytes_per_order / 1000,
    "MB/worker": lambda run: run.memory_per_worker,
}


def medians(runs: Sequence[Run]) -> dict[str, float]:
    """Each column's median over the runs of one system."""
    return {name: median([value(run) for run in runs]) for name, value in _COLUMNS.items()}


class Ratio(NamedTuple):
    """One figure divided by another of the same round: the median of the rounds, and the lowest and the highest."""

    median: float
    low: float
    high: float


def ratio(column: str, runs: Sequence[Run], over: Sequence[Run]) -> Ratio | None:
    """What the runs show, divided by what those of another system show in the same rounds; ``None`` without any."""
    value = _COLUMNS[column]
    others = {run.round: value(run) for run in over}
    found = [value(run) / others[run.round] for run in runs if others.get(run.round)]
    return Ratio(median(found), min(found), max(found)) if found else None


def ratios(runs: Sequence[Run]) -> dict[str, dict[str, Ratio]]:
    """Each figure of each system against ours; nothing where ours did not take part."""
    ours = _of("ours", runs)
    return {
        name: {column: found for column in _COLUMNS if (found := ratio(column, _of(name, runs), ours))}
        for name in dict.fromkeys(run.system for run in runs)
    }


def table(systems: Sequence[System], runs: Sequence[Run]) -> str:
    """Markdown: a row per figure, a column per system, and in brackets the ratio to ours and its spread."""
    to_ours = ratios(runs)
    figures = {system.name: medians(_of(system.name, runs)) for system in systems}
    lines = [
        "| " + " | ".join(["", *map(_heading, systems)]) + " |",
        "|---" + "|---:" * len(systems) + "|",
    ]
    for column in _COLUMNS:
        cells = []
        for system in systems:
            it = to_ours.get(system.name, {}).get(column)
            beside = f" ({it.median:.2f}; {it.low:.2f}-{it.high:.2f})" if it and system.name != "ours" else ""
            cells.append(f"{figures[system.name][column]:.1f}{beside}")
        lines.append("| " + " | ".join([column, *cells]) + " |")
    return "\n".join(lines) + "\n"


def tuning_table(systems: Sequence[System], runs: Sequence[Run]) -> str:
    """Markdown: what was tried with each peer, and what it brought."""
    lines = ["| peer | configuration | orders/s | backlog orders/s |", "|---|---|---:|---:|"]
    for system in systems:
        it = medians(_of(system.name, runs))
        lines.append(
            f"| {system.title} | {system.tuning or 'defaults'} | {it['orders/s']:.1f} | {it['backlog orders/s']:.1f} |"
        )
    return "\n".join(lines) + "\n"


def tunings(systems: Sequence[System], runs: Sequence[Run]) -> dict[str, dict[str, Any]]:
    """The same for ``result.json``."""
    return {
        system.name: {"tuning": system.tuning or "defaults"}
        | {column: medians(_of(system.name, runs))[column] for column in ("orders/s", "backlog orders/s")}
        for system in systems
    }


def growth(runs: Sequence[Run]) -> dict[str, dict[str, float]]:
    """What an order costs, by how many there are."""
    columns = ("CPU ms/order", "statements/order", "commits/order", "WAL KB/order", "broker KB/order")
    return {str(run.orders): {column: _COLUMNS[column](run) for column in columns} for run in runs}


def growth_table(found: Mapping[str, Mapping[str, float]]) -> str:
    """Markdown: a row per number of orders."""
    columns = [*next(iter(found.values()))]
    lines = ["| orders | " + " | ".join(columns) + " |", "|---:" + "|---:" * len(columns) + "|"]
    lines += [
        f"| {orders} | " + " | ".join(f"{figures[column]:.1f}" for column in columns) + " |"
        for orders, figures in found.items()
    ]
    return "\n".join(lines) + "\n"


def rate_table(systems: Sequence[System], found: Sequence[AtRate]) -> str:
    """Markdown: placed to authorized, and to captured, at each rate; empty where a system did not survive."""
    rates = sorted({it.rate for it in found})
    lines = [
        "| placed per second | " + " | ".join(map(_heading, systems)) + " |",
        "|---:" + "|---:" * len(systems) + "|",
    ]
    for rate in rates:
        cells = []
        for system in systems:
            merged = at_rate(system.name, rate, found)
            cells.append(
                "-" if merged is None else " / ".join(_in_ms(merged[what]) for what in ("authorized", "captured"))
            )
        lines.append(f"| {rate:g} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def at_rate(system: str, rate: float, found: Sequence[AtRate]) -> dict[str, dict[str, float]] | None:
    """Medians of the rounds of what a system took at a rate; ``None`` if it did not survive each time."""
    own = [it for it in found if (it.system, it.rate) == (system, rate)]
    if not own or not all(it.survived for it in own):
        return None
    return {
        what: {share: median([getattr(it, what)[share] for it in own]) for share in ("p50", "p95", "p99")}
        for what in ("authorized", "captured")
    }


def _in_ms(spread: Mapping[str, float]) -> str:
    return " ".join(f"{spread[share] * 1000:.0f}" for share in ("p50", "p95", "p99"))


def _heading(system: System) -> str:
    return f"{system.title} ({system.tuning})" if system.tuning else system.title


def _of(name: str, runs: Sequence[Run]) -> list[Run]:
    return [run for run in runs if run.system == name]


@dataclass(frozen=True)
class Target:
    """One line of what is to be reached."""

    measure: str
    reached: float
    at_least: float
    aim: float
    """Below ``at_least`` where less is better."""

    @property
    def verdict(self) -> str:
        less_is_better = self.aim < self.at_least
        meets = (self.reached <= bound if less_is_better else self.reached >= bound for bound in self._bounds)
        return next((word for word, met in zip(("aim", "enough"), meets, strict=True) if met), "missed")

    @property
    def _bounds(self) -> tuple[float, float]:
        return self.aim, self.at_least


def targets(
    systems: Sequence[System],
    runs: Sequence[Run],
    relays: Mapping[str, float],
    rates: Sequence[AtRate],
    long: Mapping[str, Mapping[str, Any]],
) -> list[Target]:
    """What the shop is to reach, as far as it was measured."""
    careless = [it.name for it in systems if it.peer and not it.peer.endswith("outbox")]
    careful = [it.name for it in systems if it.peer.endswith("outbox")]

    def against(column: str, *others: str) -> float | None:
        """Ours against the best of the others: that against which the ratio is the worst."""
        found = [ratio(column, _of("ours", runs), _of(other, runs)) for other in others]
        return min((it.median for it in found if it), default=None)

    relay = relays["ours"] / relays["py-amqp"] if "ours" in relays else None
    queue, inbox, files = (long.get(name, {}) for name in ("queue", "inbox", "embedded"))
    celery = [run.orders_per_second for it in systems if it.peer == "celery" for run in _of(it.name, runs)]
    on_files = files["orders_per_second"] / median(celery) if files and celery else None
    candidates = [
        ("orders/s against the best peer without promises", against("orders/s", *careless), 6, 10),
        ("orders/s against the best peer with an outbox", against("orders/s", *careful), 10, 15),
        ("orders/s against the floor, 100 per transaction", against("orders/s", "floor100"), 0.8, 1.0),
        ("backlog against the floor, 100 per transaction", against("backlog orders/s", "floor100"), 0.7, 1.0),
        (
            "relay against pipelined publishing",
            relay,
            0.7,
            0.9,
        ),
        ("idle, authorized p50 against the floor", against("authorized p50 ms", "floor1"), 1.4, 1.2),
        *(
            (
                f"authorized {share} at any rate against the best peer",
                _worst(rates, share, [*careless, *careful]),
                1.0,
                0.7,
            )
            for share in ("p50", "p99")
        ),
        ("long queue: last tenth against first", queue.get("rate_ratio"), 0.9, 1.0),
        (
            "memory of a worker: late against early",
            queue.get("memory_ratio"),
            1.2,
            1.05,
        ),
        ("full inboxes against empty ones", inbox.get("ratio"), 0.9, 1.0),
        ("on SQLite and the embedded broker, orders/s against plain Celery on RabbitMQ", on_files, 1.0, 1.0),
        ("its long queue: last tenth against first", files.get("rate_ratio"), 0.9, 1.0),
    ]
    return [Target(name, reached, low, aim) for name, reached, low, aim in candidates if reached is not None]


def _worst(rates: Sequence[AtRate], share: str, peers: Sequence[str]) -> float | None:
    """Ours against the peer that survives most, at the rate at which that looks worst for us."""
    survived = {name: {it.rate for it in rates if at_rate(name, it.rate, rates)} for name in peers}
    best = max(peers, key=lambda name: max(survived[name], default=0), default="")
    if not best or not survived[best]:
        return None
    found = []
    for rate in survived[best]:
        ours, theirs = at_rate("ours", rate, rates), at_rate(best, rate, rates)
        assert theirs
        found.append(ours["authorized"][share] / theirs["authorized"][share] if ours else math.inf)
    return max(found)


def target_table(found: Sequence[Target]) -> str:
    """Markdown: a row per target."""
    lines = ["| to reach | reached | at least | aim | |", "|---|---:|---:|---:|---|"]
    lines += [f"| {it.measure} | {it.reached:.2f} | {it.at_least} | {it.aim} | {it.verdict} |" for it in found]
    return "\n".join(lines) + "\n"


def write_json(path: Path, runs: Sequence[Run], **more: Any) -> None:
    """Everything: the medians, the ratios to ours, and each single run."""
    single = [{**asdict(run), "completions": None} for run in runs]
    for each in single:
        del each["completions"]
    names = dict.fromkeys(run.system for run in runs)
    figures = {name: medians(_of(name, runs)) for name in names}
    to_ours = {name: {column: it._asdict() for column, it in own.items()} for name, own in ratios(runs).items()}
    document = {**more, "medians": figures, "ratios_to_ours": to_ours, "runs": single}
    path.write_text(json.dumps(document, indent=2) + "\n")


def plot(path: Path, systems: Sequence[System], runs: Sequence[Run], rates: Sequence[AtRate]) -> None:
    """Left: completed orders over time, of each system's median run in bulk. Right: latency against load."""
    import matplotlib as mpl  # only here: it takes a second to load

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(15, 6))
    for system in systems:
        own = sorted(_of(system.name, runs), key=lambda run: run.orders_per_second)
        middle = own[len(own) // 2]
        label = f"{system.title}: {middle.orders_per_second:.0f}/s"
        left.step([0.0, *middle.completions], range(len(middle.completions) + 1), where="post", label=label)
        survived = {rate: it for rate in sorted({it.rate for it in rates}) if (it := at_rate(system.name, rate, rates))}
        latencies = [it["authorized"]["p50"] * 1000 for it in survived.values()]
        right.plot([*survived], latencies, marker="o", label=system.title)
    left.set(xlabel="seconds since the first order was placed", ylabel="completed orders")
    left.set_xscale("symlog", linthresh=1)
    right.set(xlabel="orders placed per second", ylabel="placed to authorized, median, ms")
    if rates:
        right.set_xscale("log", base=2)
        right.set_yscale("log")
        placed = sorted({it.rate for it in rates})
        right.set_xticks(placed, [f"{rate:g}" for rate in placed])
    for axes in (left, right):
        axes.grid(alpha=0.3)
    left.legend()  # the colours are the same on the right
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    plt.close(figure)
