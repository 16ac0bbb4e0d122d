"""What many histories have visited: lines of the reactions, pairs of events, ends of orders."""

import ast
import hashlib
from collections import Counter
from collections.abc import Iterator
from functools import cache
from importlib import import_module
from itertools import permutations
from multiprocessing.synchronize import Event
from pathlib import Path
from typing import Final

from coverage import Coverage

from choreography.broker.topology import event_types_heard_by
from tests.shop_in_a_box import SERVICES
from tests.simulation.run import History

#: Modules of each service whose lines a run must visit.
MODULES: Final = ("reactions", "services", "timers")

#: What no history runs, by module and function, or by the text of a line in it; and why.
ELSEWHERE: Final = {
    ("orders.services", "_faults"): "what a form may get wrong (tests/unit/orders)",
    ("orders.services", "raise ValidationError(faults)"): "the same",
    ("orders.services", "raise"): "a constraint no form can break",
    ("orders.services", 'raise OrderFinished(f"order {order.pk} was cancelled and is delivered all the same")'): (
        "shipping's lock rules it out (tests/unit/orders)"
    ),
    ("payments.services", 'raise NothingHeld(f"payments has authorized nothing for order {order_id}")'): (
        "shipping sends nothing that is not authorized (tests/unit/payments)"
    ),
    ("payments.services", 'raise Conflict(f"the provider answered {answer!r} to an authorization")'): (
        "a provider that contradicts itself (tests/unit/payments)"
    ),
    ("payments.services", 'raise Conflict(f"the provider answered {answer!r} to a capture")'): "the same",
    ("payments.reactions", "order_placed_v1"): "messages of an older release (tests/flows/test_versions.py)",
    ("shipping.reactions", "order_placed_v1"): "the same",
    ("shipping.timers", "_enter_alone"): "what the carrier says can be entered (tests/unit/shipping)",
    ("shipping.timers", "for_each(said.items(), _enter_alone)"): "the same",
    ("shipping.timers", "except Exception as error:"): "a carrier that doesn't know its parcels (tests/unit/shipping)",
    ("shipping.timers", "faults.append(error)"): "the same",
    ("shipping.timers", 'raise ExceptionGroup(f"{len(faults)} parcels could not be tracked", faults)'): "the same",
}

Lines = dict[str, set[int]]
"""Module -> numbers of lines."""

Pair = tuple[str, str, str]
"""Service, and two event types of which it handled the first before the second, for one order."""


class LinesVisited:
    """Notes which lines of the services have run, until all have: it costs a third of the speed."""

    def __init__(self, enough: Event) -> None:
        """``enough`` is set when several processes together have seen everything."""
        self._enough = enough
        self._coverage = Coverage(data_file=None, config_file=False, include=[str(file) for file in _files().values()])
        self._running = False
        self.lines: Lines = {module: set() for module in _files()}

    def start(self) -> None:
        """Begin to take note, unless there is nothing left to see."""
        if missing(self.lines) and not self._enough.is_set():
            self._coverage.start()
            self._running = True

    def stop(self) -> None:
        """Take note of what has run since ``start``."""
        if self._running:
            self._coverage.stop()
            self._running = False
            data = self._coverage.get_data()
            for module, file in _files().items():
                self.lines[module] |= set(data.lines(str(file)) or ())


def missing(visited: Lines) -> Lines:
    """The lines of functions that were not visited, by module; only modules that have any."""
    left = {module: wanted - visited.get(module, set()) for module, wanted in _wanted().items()}
    return {module: lines for module, lines in left.items() if lines}


def to_visit() -> int:
    """How many lines there are to visit."""
    return sum(len(lines) for lines in _wanted().values())


def possible_pairs() -> set[Pair]:
    """Every ordered pair of event types a service hears."""
    return {(service, *pair) for service in SERVICES for pair in permutations(event_types_heard_by(service), 2)}


class Figures:
    """Sums over histories."""

    def __init__(self) -> None:
        self.seeds = self.orders = 0
        self.ends: Counter[str] = Counter()
        self.outcomes: Counter[str] = Counter()
        self.batches: Counter[int] = Counter()
        self.pairs: set[Pair] = set()
        self.lines: Lines = {}
        self.last_story: list[str] = []
        self._digests: dict[int, str] = {}

    @property
    def digest(self) -> str:
        """Of all histories: equal wherever the same seeds were run."""
        return hashlib.sha256(repr(sorted(self._digests.items())).encode()).hexdigest()[:16]

    def add(self, history: History) -> None:
        self.last_story = history.story
        self._digests[history.seed] = history.digest
        self.seeds += 1
        self.orders += history.orders
        self.ends.update(history.ends)
        self.outcomes.update(history.outcomes)
        self.batches.update(history.batches)
        self.pairs |= history.pairs

    def add_lines(self, lines: Lines) -> None:
        for module, numbers in lines.items():
            self.lines.setdefault(module, set()).update(numbers)


@cache
def _files() -> dict[str, Path]:
    modules = (import_module(f"{service}.{name}") for service in SERVICES for name in MODULES)
    return {module.__name__: Path(str(module.__file__)) for module in modules}


@cache
def _wanted() -> Lines:
    """The lines of each module that belong to functions, apart from those that run elsewhere."""
    reader = Coverage(data_file=None, config_file=False)
    lines: Lines = {}
    for module, file in _files().items():
        text = file.read_text()
        inside: set[int] = set()
        for name, function in _functions(ast.parse(text)):
            if (module, name) not in ELSEWHERE:
                inside |= set(range(function.body[0].lineno, (function.end_lineno or 0) + 1))
        _, statements, _, _ = reader.analysis(str(file))
        lines[module] = inside & set(statements)
        lines[module] -= _elsewhere(module, text.splitlines())
    return lines


def _elsewhere(module: str, lines: list[str]) -> set[int]:
    """The lines that are named, and the ``case`` that leads to one."""
    named = {number for number, line in enumerate(lines, 1) if (module, line.strip()) in ELSEWHERE}
    return named | {number - 1 for number in named if lines[number - 2].strip().startswith("case _")}


def _functions(tree: ast.Module | ast.ClassDef, prefix: str = "") -> Iterator[tuple[str, ast.FunctionDef]]:
    for node in tree.body:
        if isinstance(node, ast.FunctionDef):
            yield prefix + node.name, node
        elif isinstance(node, ast.ClassDef):
            yield from _functions(node, f"{node.name}.")
