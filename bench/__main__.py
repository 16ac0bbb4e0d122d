"""The benchmark: ``make bench``, or ``python -m bench``. Options stand in the environment; see ``Options``."""

import json
import os
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from bench import embedded, long, relays, report
from bench.meters import median
from bench.runs import AtRate, Run, at_rates, run
from bench.servers import Servers, own_servers
from bench.systems import TUNINGS, System, all_systems, main_systems

LONG_ONES = ("queue", "inbox", "embedded")
#: Orders whose events wait, on the embedded broker.
_QUEUED_ON_FILES = 20_000


#: With ``QUICK=1``: the main table in a few minutes.
_QUICK = {"orders": 300, "rounds": 1, "idle": 30, "events": 5000, "rates": ()}


@dataclass(frozen=True)
class Options:
    """What may be asked for. Each is a variable of the same name in capitals."""

    orders: int = 1000
    """Placed in bulk, per system and round."""
    rounds: int = 3
    """Each system once in each. The table has the medians."""
    idle: int = 100
    """Placed one at a time, per system and round."""
    rates: tuple[float, ...] = (10, 20, 40, 80, 160, 320)
    """Orders placed per second, the same for everyone, until each breaks; with commas. ``0`` leaves it out."""
    seconds: int = 10
    """How long each rate lasts."""
    events: int = 20000
    """For the relay alone. 0 leaves it out."""
    systems: tuple[str, ...] = main_systems()
    """Names, with commas."""
    tune: int = 0
    """1: only what was tried with the peers, in bulk and as a backlog."""
    growth: tuple[int, ...] = ()
    """Multiples of the orders, such as ``1,4,16``: what an order of ours costs in each."""
    long: tuple[str, ...] = ()
    """Also the long ones, which take half an hour: ``queue``, ``inbox``, ``embedded``, or all (``1``). Of ours."""
    long_orders: int = 100_000
    long_rows: int = 10_000_000
    out: Path = Path(__file__).parent
    """The folder that gets result.json and result.png."""

    @classmethod
    def from_environment(cls, given: Mapping[str, str]) -> "Options":
        """Raises ``ValueError``, saying what is wrong with which variable."""
        read: dict[str, Any] = dict(_QUICK) if given.get("QUICK") == "1" else {}
        for name in ("orders", "rounds", "idle", "events", "seconds", "tune", "long_orders", "long_rows"):
            if text := given.get(name.upper()):
                if not text.isdecimal() or (int(text) == 0 and name not in ("events", "tune")):
                    raise ValueError(f"{name.upper()}={text}: give a positive number")
                read[name] = int(text)
        for name in ("rates", "growth"):
            if text := given.get(name.upper()):
                if not all(each.isdecimal() for each in text.split(",")):
                    raise ValueError(f"{name.upper()}={text}: give positive numbers with commas, or 0 for none")
                read[name] = tuple(int(each) for each in text.split(",") if int(each))
        if read.get("tune"):
            read["systems"] = TUNINGS
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


@dataclass
class Found:
    """All that was measured."""

    runs: list[Run] = field(default_factory=list)
    rates: list[AtRate] = field(default_factory=list)
    relays: dict[str, float] = field(default_factory=dict)
    growth: list[Run] = field(default_factory=list)
    #: What is not measured again stays as an earlier run found it.
    kept: dict[str, Any] = field(default_factory=dict)

    @property
    def long(self) -> dict[str, Any]:
        return dict(self.kept.get("long", {}))


def main() -> int:
    try:
        options = Options.from_environment(os.environ)
    except ValueError as error:
        print(error, file=sys.stderr)
        return 2
    systems = [all_systems()[name] for name in options.systems]
    found = Found(kept=_kept(options.out))
    with tempfile.TemporaryDirectory(prefix="bench-") as name, own_servers(Path(name)) as servers:
        bench = Bench(servers, Path(name), options)
        machine = {"versions": servers.versions(), "cpus": os.cpu_count()}
        found.runs = bench.rounds(systems)
        if options.tune:
            print(report.tuning_table(systems, found.runs))
            _keep(options.out, tunings=report.tunings(systems, found.runs))
            return 0
        if options.rates:
            found.rates = bench.rates(systems)
        if options.events:
            found.relays = bench.relays(systems)
        if options.growth:
            found.growth = bench.growth()
        if options.long:
            _report(options, systems, machine, found)  # lest what follows fails
            found.kept["long"] = found.long | bench.long()
    print(_report(options, systems, machine, found))
    return 0


def _kept(folder: Path) -> dict[str, Any]:
    """What an earlier run found that wrote here, and that takes long."""
    file = folder / "result.json"
    before = json.loads(file.read_text()) if file.exists() else {}
    return {name: before[name] for name in ("long", "tunings", "growth") if name in before}


def _keep(folder: Path, **more: Any) -> None:
    """Add to what an earlier run wrote."""
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "result.json"
    before = json.loads(file.read_text()) if file.exists() else {}
    file.write_text(json.dumps(before | more, indent=2) + "\n")


def _report(options: Options, systems: list[System], machine: dict[str, Any], found: Found) -> str:
    """Write the files. Returns the tables."""
    reached = report.targets(systems, found.runs, found.relays, found.rates, found.long)
    grown = report.growth(found.growth) or found.kept.get("growth", {})
    options.out.mkdir(parents=True, exist_ok=True)
    report.write_json(
        options.out / "result.json",
        found.runs,
        machine=machine,
        orders=options.orders,
        rounds=options.rounds,
        relay_events_per_second=found.relays,
        rates=[asdict(it) for it in found.rates],
        targets=[asdict(target) | {"verdict": target.verdict} for target in reached],
        **found.kept | {"long": found.long, "growth": grown},
    )
    report.plot(options.out / "result.png", systems, found.runs, found.rates)
    parts = [report.table(systems, found.runs)]
    if found.rates:
        parts.append(report.rate_table(systems, found.rates))
    parts += [f"relay alone, events/s: {what}: {rate:.0f}" for what, rate in found.relays.items()]
    if found.growth:
        parts.append(report.growth_table(grown))
    return "\n".join([*parts, "", report.target_table(reached)])


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
                it = self._run(system, self._options.orders)
                it.round = number
                _tell(f"round {number}: {system.name}: {it.orders_per_second:.1f} orders/s")
                runs.append(it)
        return runs

    def rates(self, systems: list[System]) -> list[AtRate]:
        """Every system at rising rates until it breaks, then every system again."""
        found = []
        for number in range(1, self._options.rounds + 1):
            for system in systems:
                name = self._new_place(system)
                own = at_rates(system, self._servers, self._folder, name, self._options.rates, self._options.seconds)
                for it in own:
                    it.round = number
                survived = [it.rate for it in own if it.survived]
                _tell(f"round {number}: {system.name} survives {max(survived, default=0):g} orders/s")
                found += own
        return found

    def growth(self) -> list[Run]:
        """Ours, with more and more orders in bulk."""
        ours = all_systems()["ours"]
        runs = []
        for times in self._options.growth:
            runs.append(self._run(ours, self._options.orders * times))
            _tell(f"{runs[-1].orders} orders: {runs[-1].cpu_per_order['all'] * 1000:.1f} ms each")
        return runs

    def _run(self, system: System, orders: int) -> Run:
        it = run(system, self._servers, self._folder, self._new_place(system), orders, self._options.idle)
        if it.parked:
            _tell(f"{system.title} has parked something: {it.parked}")
        return it

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
        found: dict[str, Any] = {}
        for name in options.long:
            place = self._new_place(ours)
            if name == "queue":
                found[name] = long.long_queue(ours, self._servers, self._folder, place, options.long_orders)
            elif name == "inbox":
                rows = options.long_rows
                found[name] = long.full_inbox(ours, self._servers, self._folder, place, options.orders, rows)
            else:
                queued = min(options.long_orders, _QUEUED_ON_FILES)
                found[name] = embedded.measure(self._folder / name, options.orders, queued)
        return found

    def _new_place(self, system: System | None) -> str:
        self._places += 1
        return f"{system.name.replace('-', '_') if system else 'publisher'}_{self._places}"


def _tell(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
