"""A claim is held by one at a time, across processes, and ends with the process that holds it."""

import os
import signal
import subprocess
import sys
from pathlib import Path
from uuid import UUID

import pytest
from django.db import connections
from django.test.utils import CaptureQueriesContext

from choreography.core import clock
from choreography.storage.claims import claimed
from tests.processes import eventually

pytestmark = pytest.mark.django_db(databases="__all__")

#: Takes the claim on an event, says so, and holds it until it is killed.
_HOLDER = """
import signal, sys, uuid
import django
from django.conf import settings
from django.db import connections
django.setup()
settings.DATA_DIR = sys.argv[1]
connections["payments"].settings_dict["NAME"] = sys.argv[3]
from choreography.storage.claims import claimed
with claimed("payments", "payments.authorize_payment", [uuid.UUID(sys.argv[2])]):
    print("held", flush=True)
    signal.pause()
"""


AUTHORIZE, CAPTURE = "payments.authorize_payment", "payments.capture_payment"


def test_a_claim_can_be_taken_again_once_it_was_let_go() -> None:
    event = clock.new_id()
    for _ in range(2):
        with claimed("payments", AUTHORIZE, [event]) as held:
            assert held == {event}


def test_a_claim_that_is_held_is_not_given_to_a_copy() -> None:
    event = clock.new_id()
    with claimed("payments", AUTHORIZE, [event]):
        for _ in range(2):
            with claimed("payments", AUTHORIZE, [event]) as held:
                assert held == frozenset()
        with claimed("payments", CAPTURE, [event]) as held:
            assert held == {event}
    assert can_be_claimed(event)


def test_of_many_claims_those_are_given_that_nobody_holds() -> None:
    """And only those are let go of afterwards."""
    one, two, three = (clock.new_id() for _ in range(3))
    with claimed("payments", AUTHORIZE, [two]):
        with claimed("payments", AUTHORIZE, [one, two, three]) as held:
            assert held == {one, three}
            assert not can_be_claimed(one)
        assert can_be_claimed(one)
        assert can_be_claimed(three)
        assert not can_be_claimed(two)


def test_none_of_many_stands_in_another_ones_way() -> None:
    """There are more than files for them where the database has no locks of this kind."""
    events = [clock.new_id() for _ in range(600)]
    with claimed("payments", AUTHORIZE, events) as held:
        assert held == set(events)
    with claimed("payments", AUTHORIZE, []) as held:
        assert held == frozenset()


def test_claims_take_few_statements_however_many_they_are() -> None:
    events = [clock.new_id() for _ in range(50)]
    with CaptureQueriesContext(connections["payments"]) as asked, claimed("payments", AUTHORIZE, events):
        pass
    assert len(asked) == (2 if connections["payments"].vendor == "postgresql" else 0)


def test_claims_are_let_go_when_the_reaction_fails() -> None:
    events = [clock.new_id(), clock.new_id()]
    with pytest.raises(ZeroDivisionError), claimed("payments", AUTHORIZE, events):
        _ = 1 / 0
    assert all(can_be_claimed(event) for event in events)


def test_a_claim_of_another_process_ends_when_that_is_killed(data_dir: Path) -> None:
    event = clock.new_id()
    database = str(connections["payments"].settings_dict["NAME"])
    holder = subprocess.Popen(
        [sys.executable, "-c", _HOLDER, str(data_dir), str(event), database],
        env=os.environ | {"DJANGO_SETTINGS_MODULE": "shop.settings", "DEBUG": "true"},
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        assert not can_be_claimed(event)
    finally:
        holder.send_signal(signal.SIGKILL)
        holder.communicate()
    eventually(lambda: can_be_claimed(event), within=10)


def can_be_claimed(event: UUID) -> bool:
    with claimed("payments", AUTHORIZE, [event]) as held:
        return event in held
