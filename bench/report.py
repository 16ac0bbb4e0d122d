"""What came of it: medians over the rounds, a table, a JSON file and a plot."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from bench.meters import median
from bench.runs import Run
from bench.systems import System

#: Column -> what of a run stands in it, and by how much it is multiplied.
_COLUMNS: Mapping[str, Callable[[Run], float]] = {
    "orders/s": lambda run: run.orders_per_second,
    "backlog orders/s": lambda run: run.backlog_per_second,
    **{
        f"{label} {p} ms": lambda run, of=of, p=p: getattr(run, of)[p] * 1000  # type: ignore[misc]
        for label, of in (("idle", "idle"), ("half load", "half_load"), ("authorized", "idle_authorized"))
        for p in ("p50", "p95", "p99")
    },
    "CPU ms/order": lambda run: run.cpu_per_order["all"] * 1000,
    "of its own": lambda run: run.cpu_per_order["system"] * 1000,
    "of PostgreSQL": lambda run: run.cpu_per_order["postgresql"] * 1000,
    "of RabbitMQ": lambda run: run.cpu_per_order["rabbitmq"] * 1000,
    "statements/order": lambda run: run.statements_per_order,
    "commits/order": lambda run: run.commits_per_order,
    "MB/worker": lambda run: run.memory_per_worker,
}


def medians(runs: Sequence[Run]) -> dict[str, float]:
    """Each column's median over the runs of one system."""
    return {name: median([value(run) for run in runs]) for name, value in _COLUMNS.items()}


def ratios(figures: Mapping[str, Mapping[str, float]]) -> dict[str, dict[str, float]]:
    """Each figure of a system divided by ours; nothing where ours did not take part."""
    ours = figures.get("ours")
    if ours is None:
        return {}
    return {
        name: {column: value / ours[column] for column, value in columns.items() if ours[column]}
        for name, columns in figures.items()
    }


def table(systems: Sequence[System], figures: Mapping[str, Mapping[str, float]]) -> str:
    """Markdown: a row per figure, a column per system, and in brackets the ratio to ours."""
    to_ours = ratios(figures)
    lines = [
        "| " + " | ".join(["", *(system.title for system in systems)]) + " |",
        "|---" + "|---:" * len(systems) + "|",
    ]
    for column in _COLUMNS:
        cells = []
        for system in systems:
            ratio = to_ours.get(system.name, {}).get(column)
            beside = f" ({ratio:.2f})" if ratio is not None and system.name != "ours" else ""
            cells.append(f"{figures[system.name][column]:.1f}{beside}")
        lines.append("| " + " | ".join([column, *cells]) + " |")
    return "\n".join(lines) + "\n"


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
    figures: Mapping[str, Mapping[str, float]], relays: Mapping[str, float], long: Mapping[str, Mapping[str, float]]
) -> list[Target]:
    """What the shop is to reach, as far as it was measured."""

    def ratio(column: str, other: str) -> float | None:
        both = "ours" in figures and other in figures
        return figures["ours"][column] / figures[other][column] if both else None

    candidates = [
        ("orders/s against plain Celery", ratio("orders/s", "celery"), 6, 10),
        ("orders/s against FastStream", ratio("orders/s", "faststream"), 2, 4),
        ("orders/s against Dramatiq", ratio("orders/s", "dramatiq"), 2, 4),
        ("orders/s against the floor, 100 per transaction", ratio("orders/s", "floor100"), 0.35, 0.5),
        (
            "relay against pipelined publishing",
            relays["ours"] / relays["py-amqp"] if "ours" in relays else None,
            0.3,
            0.6,
        ),
        ("idle, authorized p50 against the floor", ratio("authorized p50 ms", "floor1"), 3, 1.5),
        ("idle, authorized p99 against the floor", ratio("authorized p99 ms", "floor1"), 3, 1.5),
        ("long queue: last tenth against first", long["queue"]["rate_ratio"] if long else None, 0.9, 1.0),
        ("memory of a worker: late against early", long["queue"]["memory_ratio"] if long else None, 1.2, 1.05),
        ("full inboxes against empty ones", long["inbox"]["ratio"] if long else None, 0.9, 1.0),
    ]
    return [Target(name, reached, low, aim) for name, reached, low, aim in candidates if reached is not None]


def target_table(found: Sequence[Target]) -> str:
    """Markdown: a row per target."""
    lines = ["| to reach | reached | at least | aim | |", "|---|---:|---:|---:|---|"]
    lines += [f"| {it.measure} | {it.reached:.2f} | {it.at_least} | {it.aim} | {it.verdict} |" for it in found]
    return "\n".join(lines) + "\n"


def write_json(path: Path, runs: Sequence[Run], figures: Mapping[str, Mapping[str, float]], **more: Any) -> None:
    """Everything: the medians, their ratios to ours, and each single run."""
    single = [{**asdict(run), "completions": None} for run in runs]
    for each in single:
        del each["completions"]
    document = {**more, "medians": figures, "ratios_to_ours": ratios(figures), "runs": single}
    path.write_text(json.dumps(document, indent=2) + "\n")


def plot(path: Path, systems: Sequence[System], runs: Sequence[Run]) -> None:
    """Completed orders over time, of each system's median run in bulk."""
    import matplotlib as mpl  # only here: it takes a second to load

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(10, 6))
    for system in systems:
        own = sorted((run for run in runs if run.system == system.name), key=lambda run: run.orders_per_second)
        middle = own[len(own) // 2]
        label = f"{system.title}: {middle.orders_per_second:.0f}/s"
        axes.step([0.0, *middle.completions], range(len(middle.completions) + 1), where="post", label=label)
    axes.set(xlabel="seconds since the first order was placed", ylabel="completed orders")
    axes.set_xscale("symlog", linthresh=1)
    axes.grid(alpha=0.3)
    axes.legend()
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    plt.close(figure)
