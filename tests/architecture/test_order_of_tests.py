"""The longest tests are begun first, by as many of pytest-xdist's workers as there are."""

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import pytest
from xdist.scheduler.worksteal import WorkStealingScheduling

from tests.conftest import in_order

LONGEST = [f"long {number}" for number in range(5)]


@pytest.mark.parametrize("workers", [1, 2, 3, 4])
@pytest.mark.parametrize("others", [10, 11, 12, 13, 100])
def test_each_worker_begins_with_one_of_the_longest(workers: int, others: int) -> None:
    short = [f"short {number}" for number in range(others)]

    ordered = in_order(LONGEST, short, workers)

    assert sorted(ordered) == sorted([*LONGEST, *short])
    assert [tests[0] for tests in given_to_each(workers, ordered)] == LONGEST[:workers]


class Node:
    """What the scheduling knows of a worker."""

    shutting_down = False
    gateway = SimpleNamespace(id="worker")

    def __init__(self, tests: Sequence[str]) -> None:
        self.tests = tests
        self.given: list[str] = []

    def send_runtest_some(self, indexes: Sequence[int]) -> None:
        self.given += [self.tests[index] for index in indexes]

    def shutdown(self) -> None:
        """There is nothing more to be stolen."""


def given_to_each(workers: int, tests: Sequence[str]) -> list[list[str]]:
    """What pytest-xdist gives to each worker at first."""
    config: Any = SimpleNamespace(getvalue=lambda _: ["popen"] * workers, option=SimpleNamespace(debug=False))
    scheduling = WorkStealingScheduling(config)
    nodes: list[Any] = [Node(tests) for _ in range(workers)]
    for node in nodes:
        scheduling.add_node(node)
        scheduling.add_node_collection(node, tests)
    scheduling.schedule()
    return [node.given for node in nodes]
