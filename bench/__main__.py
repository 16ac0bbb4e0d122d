"""The benchmark: ``make bench``, or ``python -m bench``. Options stand in the environment; see ``Options``."""

import json
import os
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from bench import long, relays, report
from bench.meters import median
from bench.runs import Run, run
from bench.servers import Servers, own_servers
from bench.systems import VARIANTS, System, all_systems

LONG_ONES = ("queue", "inbox")


@dataclass(frozen=True)
class Options:
    """What may be asked for. Each is a variable of the same name in capitals."""

    orders: int = 1000
    """Placed in bulk, per system and round."""
    rounds: int = 3
    """Each system once in each. The table has the medians."""
    idle: int = 100
    """Placed one at a time, per system and round."""
    events: int = 20000
    """For the relay alone. 0 leaves it out."""
    systems: tuple[str, ...] = tuple(name for name in all_systems() if name not in VARIANTS)
    """Names, with commas."""
    long: tuple[str, ...] = ()
    """Also the long ones, which take half an hour: ``queue``, ``inbox``, or both (``1``). Of ours."""
    long_orders: int = 100_000
    long_rows: int = 10_000_000
    out: Path = Path(__file__).parent
    """The folder that gets result.json and result.png."""

    @classmethod
    def from_environment(cls, given: Mapping[str, str]) -> "Options":
        """Raises ``ValueError``, saying what is wrong with which variable."""
        read: dict[str, Any] = {}
        for name in ("orders", "rounds", "idle", "events", "long_orders", "long_rows"):
            if text := given.get(name.upper()):
                if not text.isdecimal() or (int(text) == 0 and name != "events"):
                    raise ValueError(f"{name.upper()}={text}: give a positive number")
                read[name] = int(text)
        if text := given.get("SYSTEMS"):
            read["systems"] = tuple(text.split(","))
            if unknown := set(read["systems"]) - set(all_systems()):
                raise ValueError(f"SYSTEMS: there is no {', '.join(sorted(unknown))}, only {', '.join(all_systems())}")
        if text := given.get("LONG"):
            read["long"] = LONG_ONES if text == "1" else tuple(text.split(","))
            if unknown := set(read["long"]) - set(LONG_ONES):
                raise ValueError(f"LONG: there is no {', '.join(sorted(unknown))}, only {', '.join(LONG_ONES)}, or 1")
        if text := given.get("OUT"):
            read["out"] = Path(text)
        return cls(**read)


def main() -> int:
    try:
        options = Options.from_environment(os.environ)
    except ValueError as error:
        print(error, file=sys.stderr)
        return 2
    systems = [all_systems()[name] for name in options.systems]
    with tempfile.TemporaryDirectory(prefix="bench-") as name, own_servers(Path(name)) as servers:
        bench = Bench(servers, Path(name), options)
        machine = {"versions": servers.versions(), "cpus": os.cpu_count()}
        runs = bench.rounds(systems)
        relays_alone = bench.relays(systems) if options.events else {}
        long_ones = _long_ones_before(options.out)
        if options.long:
            _report(options, systems, machine, runs, relays_alone, long_ones)  # lest what follows fails
            long_ones |= bench.long()
    print(_report(options, systems, machine, runs, relays_alone, long_ones))
    return 0


def _long_ones_before(folder: Path) -> dict[str, Any]:
    """What an earlier run that measured them found, if it wrote here: they stay until they are measured again."""
    file = folder / "result.json"
    return dict(json.loads(file.read_text())["long"]) if file.exists() else {}


def _report(
    options: Options,
    systems: list[System],
    machine: dict[str, Any],
    runs: list[Run],
    relays_alone: dict[str, float],
    long_ones: dict[str, Any],
) -> str:
    """Write the files. Returns the tables."""
    figures = {system.name: report.medians([it for it in runs if it.system == system.name]) for system in systems}
    reached = report.targets(figures, relays_alone, long_ones)
    options.out.mkdir(parents=True, exist_ok=True)
    report.write_json(
        options.out / "result.json",
        runs,
        figures,
        machine=machine,
        orders=options.orders,
        rounds=options.rounds,
        relay_events_per_second=relays_alone,
        long=long_ones,
        targets=[asdict(target) | {"verdict": target.verdict} for target in reached],
    )
    report.plot(options.out / "result.png", systems, runs)
    alone = [f"relay alone, events/s: {what}: {rate:.0f}" for what, rate in relays_alone.items()]
    return "\n".join([report.table(systems, figures), *alone, "", report.target_table(reached)])


class Bench:
    """All measurements, on one pair of servers. Progress goes to stderr."""

    def __init__(self, servers: Servers, folder: Path, options: Options) -> None:
        self._servers, self._folder, self._options = servers, folder, options
        self._places = 0

    def rounds(self, systems: list[System]) -> list[Run]:
        """Every system once, then every system again: what disturbs the machine disturbs all."""
        runs = []
        for number in range(1, self._options.rounds + 1):
            for system in systems:
                name = self._new_place(system)
                it = run(system, self._servers, self._folder, name, self._options.orders, self._options.idle)
                _tell(f"round {number}: {system.title}: {it.orders_per_second:.1f} orders/s")
                if it.parked:
                    _tell(f"{system.title} has parked something: {it.parked}")
                runs.append(it)
        return runs

    def relays(self, systems: list[System]) -> dict[str, float]:
        """Events per second of each relay and of publishing without one: medians."""
        events = self._options.events
        found: dict[str, list[float]] = {}
        for _ in range(self._options.rounds):
            name = self._new_place(None)
            found.setdefault("py-amqp", []).append(
                relays.published_per_second(self._servers, self._folder, name, events)
            )
            for system in systems:
                if system.relay is not None:
                    rate = relays.relayed_per_second(
                        system, self._servers, self._folder, self._new_place(system), events
                    )
                    found.setdefault(system.name, []).append(rate)
                    _tell(f"relay of {system.title}: {rate:.0f} events/s")
        return {name: median(rates) for name, rates in found.items()}

    def long(self) -> dict[str, Any]:
        """The long ones, of ours."""
        ours, options = all_systems()["ours"], self._options
        found = {}
        for name in options.long:
            place = self._new_place(ours)
            if name == "queue":
                found[name] = long.long_queue(ours, self._servers, self._folder, place, options.long_orders)
            else:
                rows = options.long_rows
                found[name] = long.full_inbox(ours, self._servers, self._folder, place, options.orders, rows)
        return found

    def _new_place(self, system: System | None) -> str:
        self._places += 1
        return f"{system.name if system else 'publisher'}_{self._places}"


def _tell(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
