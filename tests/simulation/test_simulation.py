"""The simulation itself: it finds what is planted, tells it shortly, and does the same again whenever it is asked."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
from django.db import connections

from choreography.events.registry import reaction_to
from choreography.simulation.actions import Handle, Meanwhile, Relay, numbered, numbers, only
from choreography.simulation.shrinking import shrink
from choreography.testing import override
from tests.simulation.actions import Cancel, Place
from tests.simulation.planted import PLANTS, planted
from tests.simulation.run import History, Simulator
from tests.simulation.schedule import schedule_of

SEEDS = range(1, 31)


def first_failure(shops: Simulator, seeds: range) -> History:
    """The history of the first of these seeds that fails."""
    for seed in seeds:
        history = shops.run(schedule_of(seed), seed)
        if history.violation:
            return history
    raise AssertionError(f"none of {seeds} fails")


def simulate(*arguments: str, hash_seed: str = "0") -> subprocess.CompletedProcess[str]:
    """Run the command as ``make simulate`` does."""
    return subprocess.run(
        [sys.executable, "-m", "tests.simulation", *arguments],
        env=os.environ | {"PYTHONHASHSEED": hash_seed},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )


def test_whatever_happens_every_order_ends_well(shops: Simulator) -> None:
    sizes: set[int] = set()
    for seed in SEEDS:
        history = shops.run(schedule_of(seed), seed)
        assert history.violation is None, "\n".join([str(history.violation), *history.story])
        sizes |= history.batches.keys()
    assert sizes >= {1, 2, 3, 4}


def test_a_seed_is_a_history(shops: Simulator) -> None:
    histories = [shops.run(schedule_of(seed), seed) for seed in (3, 4, 3)]

    assert histories[0] == histories[2]
    assert histories[0].digest != histories[1].digest


def test_a_seed_is_the_same_history_in_every_process() -> None:
    digests = {
        json.loads(simulate("--seeds", "4", "--jobs", jobs, "--json", hash_seed=hash_seed).stdout)["digest"]
        for hash_seed, jobs in (("1", "1"), ("2", "2"))
    }

    assert len(digests) == 1


@pytest.mark.parametrize(
    "plant",
    [
        *("no_inbox", "mark_before_publish", "drop_conflict", "cancel_while_dispatching"),
        *("batch_acknowledges_unhandled", "answers_swapped"),
    ],
)
def test_a_planted_bug_is_found(shops: Simulator, plant: str) -> None:
    with planted(plant):
        assert first_failure(shops, range(1, 200)).violation


def test_a_bug_that_only_batches_have_is_found_though_each_alone_goes_well(
    shops: Simulator,
) -> None:
    plan = reaction_to("shipping", "orders.order_placed.v2")
    assert plan is not None
    last: list[object] = []

    def plan_shipment(shipment: Any, event: Any) -> None:
        transaction = connections["shipping"].atomic_blocks[0]
        if transaction in last:
            raise ValueError("the second in one transaction")
        last[:] = [transaction]
        plan.function(shipment, event)

    with override(plan.name, function=plan_shipment):
        violation = first_failure(shops, SEEDS).violation
    assert violation
    assert violation.invariant == "no_batch_has_a_bug"
    assert "shipping.plan_shipment" in violation.detail


def test_every_bug_that_can_be_planted_says_what_it_is() -> None:
    assert all(plant.__doc__ for plant in PLANTS.values())


def test_a_failure_is_told_with_what_it_needs_and_no_more(shops: Simulator) -> None:
    with planted("mark_before_publish"):
        failed = first_failure(shops, range(1, 200))
        assert failed.violation

        def fails(schedule: tuple[object, ...]) -> bool:
            violation = shops.run(schedule, failed.seed).violation  # type: ignore[arg-type]
            return violation is not None and violation.invariant == failed.violation.invariant  # type: ignore[union-attr]

        whole = schedule_of(failed.seed)
        short = shrink(whole, fails, seconds=300)

        assert fails(short)
        assert only(whole, numbers(short)) == short
        assert all(not fails(only(short, set(numbers(short)) - {number})) for number in numbers(short))
        assert len(short) <= 6


def test_the_command_tells_how_to_see_a_failure_again() -> None:
    told = simulate("--plant", "mark_before_publish", "--seeds", "200", "--jobs", "1", "--json")
    failure = json.loads(told.stdout)["failure"]
    seed, kept = str(failure["seed"]), failure["replay"].partition("ONLY=")[2].partition(" ")[0]

    again = simulate("--plant", "mark_before_publish", "--first-seed", seed, "--seeds", "1", "--only", kept)

    assert (told.returncode, again.returncode) == (1, 1)
    assert failure["invariant"] in again.stdout
    assert all(line in again.stdout for line in failure["story"])


@pytest.mark.parametrize("arguments", [["--seeds", "0"], ["--only", "x"], ["--plant", "none_such"]])
def test_bad_arguments_are_refused(arguments: list[str]) -> None:
    assert simulate(*arguments).returncode == 2


def test_a_run_that_is_to_visit_every_line_says_which_it_has_not() -> None:
    """``make simulate SEEDS=300 COVER=1`` does; a run as short as this one does not."""
    short = simulate("--seeds", "1", "--cover")

    assert short.returncode == 1
    assert "not visited: payments.services" in short.stdout


def test_an_action_inside_another_goes_with_it() -> None:
    schedule = numbered([Place(), Meanwhile("carrier.book", (Cancel(0), Relay("orders"))), Handle("orders")])

    assert numbers(schedule) == [0, 1, 2, 3, 4]
    assert numbers(only(schedule, {0, 1, 3})) == [0, 1, 3]
    assert numbers(only(schedule, {0, 2, 3, 4})) == [0, 4]


@pytest.mark.parametrize(
    ("needed", "wanted"), [({0, 1, 2, 3}, [0, 1, 2, 3]), ({2}, [2]), ({0, 7}, [0, 7]), ({3, 4, 9}, [3, 4, 9])]
)
def test_shrinking_keeps_what_is_needed(needed: set[int], wanted: list[int]) -> None:
    schedule = numbered([Relay("orders") for _ in range(12)])
    fails: Callable[..., bool] = lambda part: needed <= set(numbers(part))  # noqa: E731

    assert numbers(shrink(schedule, fails)) == wanted


def test_shrinking_ends_in_time() -> None:
    schedule = numbered([Relay("orders") for _ in range(12)])

    assert shrink(schedule, lambda _: True, seconds=0) == schedule
