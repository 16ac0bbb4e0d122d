"""``make chaos`` finds out each protection that is switched off. That it finds nothing else, it shows itself."""

import os
import subprocess
import sys

import pytest

from tests.chaos.faults import KINDS, schedule
from tests.chaos.load import wishes
from tests.chaos.options import BadOption, Options, read
from tests.chaos.run import Report, run
from tests.chaos.sabotage import SABOTAGES
from tests.chaos.site import Servers, own_servers
from tests.processes import ROOT

LOST = {"every_event_is_heard"}


@pytest.mark.processes
@pytest.mark.slow
@pytest.mark.longest
@pytest.mark.rabbitmq
@pytest.mark.postgresql
def test_each_protection_switched_off_is_found_out(subtests: pytest.Subtests) -> None:
    """One test, so that all have the same servers, whichever process of several has it."""
    with own_servers() as servers:
        for name, sabotage in SABOTAGES.items():
            # What was done twice is there at once. What is lost must not merely be late.
            patience = "40" if sabotage.caught_by & LOST else "10"
            with subtests.test(name):
                report = a_run(servers, SABOTAGE=name, ORDERS="60", LEAST_SECONDS="8", PATIENCE=patience)

                assert not report.ok
                assert sabotage.caught_by <= report.broken.keys(), report.to_json()


def a_run(servers: Servers, **variables: str) -> Report:
    return run(read(variables), servers, tell=print)


def test_the_same_seed_makes_the_same_orders_and_the_same_faults() -> None:
    import random

    assert wishes(Options(seed=7)) == wishes(Options(seed=7)) != wishes(Options(seed=8))
    assert schedule(KINDS, 300, random.Random(7)) == schedule(KINDS, 300, random.Random(7))


def test_a_short_run_has_every_kind_of_fault_order_and_address() -> None:
    import random

    from payments.sandbox import TOKENS
    from shipping.sandbox import ADDRESSES

    short = wishes(Options(orders=200))
    assert {wish.token for wish in short} == set(TOKENS)
    assert all(any(word in wish.street for wish in short) for word in ADDRESSES)
    assert {kind for _, kind in schedule(KINDS, 75, random.Random(1))} == set(KINDS)


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("ORDERS", "many"),
        ("ORDERS", "0"),
        ("CLUSTER", "2"),
        ("SABOTAGE", "everything"),
        ("FAULTS", "boredom"),
        ("PARKED_WITHIN", "soon"),
    ],
)
def test_a_value_that_makes_no_sense_is_one_clear_line(variable: str, value: str) -> None:
    with pytest.raises(BadOption, match=rf"^{variable} (is|has) {value}"):
        read({variable: value})


def test_a_bad_argument_is_exit_code_2_before_anything_is_started() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.chaos"],
        env={"PATH": os.environ["PATH"], "CLUSTER": "2"},
        cwd=ROOT, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip

    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "CLUSTER is 2: with one of two nodes gone there is no majority. Take 1 or 3.\n"
