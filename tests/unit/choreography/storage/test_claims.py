"""A claim has one owner at a time, across processes, and ends soon after the process that has it."""

import os
import signal
import subprocess
import sys
from pathlib import Path
from unittest.mock import patch
from uuid import UUID

import pytest
from django.db import connections, transaction
from django.test.utils import CaptureQueriesContext

from choreography.core import clock
from choreography.core.clock import use_clock
from choreography.core.errors import Conflict
from choreography.storage.claims import LEASE, _Kept, claimed
from choreography.storage.tables import ServiceTables
from choreography.testing import FrozenClock
from tests.processes import eventually

pytestmark = pytest.mark.django_db(databases="__all__")

#: Takes the claim on an event, says so, and keeps it until it is killed.
_CLAIMANT = """
import signal, sys, uuid
import django
from django.db import connections
django.setup()
connections["payments"].settings_dict["NAME"] = sys.argv[2]
from choreography.storage.claims import claimed
with claimed("payments", "payments.authorize_payment", [uuid.UUID(sys.argv[1])]) as claims:
    print(f"claimed {len(claims.event_ids)}", flush=True)
    signal.pause()
"""

AUTHORIZE, CAPTURE = "payments.authorize_payment", "payments.capture_payment"


def test_a_claim_can_be_taken_again_once_it_was_released() -> None:
    event = clock.new_id()
    for _ in range(2):
        with claimed("payments", AUTHORIZE, [event]) as claims:
            assert claims.event_ids == {event}


def test_a_claim_that_is_taken_is_not_given_to_a_copy() -> None:
    event = clock.new_id()
    with claimed("payments", AUTHORIZE, [event]):
        for _ in range(2):
            with claimed("payments", AUTHORIZE, [event]) as claims:
                assert claims.event_ids == frozenset()
        with claimed("payments", CAPTURE, [event]) as claims:
            assert claims.event_ids == {event}
    assert can_be_claimed(event)


def test_of_many_claims_those_are_given_that_are_free() -> None:
    """And only those are released afterwards."""
    one, two, three = (clock.new_id() for _ in range(3))
    with claimed("payments", AUTHORIZE, [two]):
        with claimed("payments", AUTHORIZE, [one, two, three]) as claims:
            assert claims.event_ids == {one, three}
            assert not can_be_claimed(one)
        assert can_be_claimed(one)
        assert can_be_claimed(three)
        assert not can_be_claimed(two)


def test_no_claim_of_many_keeps_another_from_being_taken() -> None:
    events = [clock.new_id() for _ in range(600)]
    with claimed("payments", AUTHORIZE, events) as claims:
        assert claims.event_ids == set(events)
    with claimed("payments", AUTHORIZE, []) as claims:
        assert claims.event_ids == frozenset()


def test_claims_take_few_statements_however_many_they_are() -> None:
    events = [clock.new_id() for _ in range(50)]
    with CaptureQueriesContext(connections["payments"]) as queries, claimed("payments", AUTHORIZE, events):
        pass
    assert len(queries) == 2


def test_claims_are_released_when_the_reaction_fails() -> None:
    events = [clock.new_id(), clock.new_id()]
    with pytest.raises(ZeroDivisionError), claimed("payments", AUTHORIZE, events):
        _ = 1 / 0
    assert all(can_be_claimed(event) for event in events)


@pytest.mark.django_db(databases="__all__", transaction=True)
def test_a_claim_of_another_process_ends_soon_after_that_is_killed(data_dir: Path) -> None:
    if connections["payments"].vendor == "sqlite":
        pytest.skip("the tests' database is in the memory of one process: see tests/contracts/test_on_postgresql.py")
    event = clock.new_id()
    database = str(connections["payments"].settings_dict["NAME"])
    claimant = subprocess.Popen(
        [sys.executable, "-c", _CLAIMANT, str(event), database],
        env=os.environ | {"DJANGO_SETTINGS_MODULE": "shop.settings", "DEBUG": "true", "DATA_DIR": str(data_dir)},
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert claimant.stdout is not None
        assert claimant.stdout.readline() == "claimed 1\n"
    finally:
        claimant.send_signal(signal.SIGKILL)
        claimant.communicate()
    assert not can_be_claimed(event)
    with use_clock(FrozenClock(start=clock.now() + LEASE * 1.1)):
        assert can_be_claimed(event)


def test_a_claim_is_kept_for_as_long_as_its_process_lives(frozen: FrozenClock) -> None:
    event = clock.new_id()
    with claimed("payments", AUTHORIZE, [event]) as claims, patch("choreography.storage.claims._RENEW_EVERY", 0):
        for _ in range(5):
            frozen.advance(LEASE.total_seconds() * 0.8)
            claims.renew()
            assert not can_be_claimed(event)
        frozen.advance(LEASE.total_seconds() * 1.1)
        assert can_be_claimed(event)


@pytest.mark.django_db(databases="__all__", transaction=True)
def test_a_thread_renews_claims() -> None:
    event = clock.new_id()
    claim = ServiceTables("payments").claims
    with (
        patch("choreography.storage.claims._RENEW_EVERY", 0.01),
        patch("choreography.storage.claims._kept", _Kept()),
        claimed("payments", AUTHORIZE, [event]),
    ):
        before = claim.get().until
        eventually(lambda: claim.get().until > before)


def test_what_was_claimed_by_another_meanwhile_is_not_committed(frozen: FrozenClock) -> None:
    one, two = clock.new_id(), clock.new_id()
    with claimed("payments", AUTHORIZE, [one, two]) as claims:
        frozen.advance(LEASE.total_seconds() * 1.1)
        with claimed("payments", AUTHORIZE, [one]) as of_another:
            assert of_another.event_ids == {one}
            with pytest.raises(Conflict), transaction.atomic(using="payments"):
                claims.settle([one, two])
        claims.settle([two])
    assert not ServiceTables("payments").claims.exists()


def can_be_claimed(event: UUID) -> bool:
    with claimed("payments", AUTHORIZE, [event]) as claims:
        return event in claims.event_ids
