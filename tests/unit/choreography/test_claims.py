"""A claim is held by one at a time, across processes, and ends with the process that holds it."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from django.db import connections

from choreography import world
from choreography.claims import claimed
from choreography.errors import NotYet
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
from choreography.claims import claimed
with claimed("payments", "payments.authorize_payment", uuid.UUID(sys.argv[2])):
    print("held", flush=True)
    signal.pause()
"""


def test_a_claim_can_be_taken_again_once_it_was_let_go() -> None:
    event = world.new_id()
    for _ in range(2):
        with claimed("payments", "payments.authorize_payment", event):
            pass


def test_a_claim_that_is_held_makes_a_copy_wait() -> None:
    event = world.new_id()
    with claimed("payments", "payments.authorize_payment", event):
        with pytest.raises(NotYet), claimed("payments", "payments.authorize_payment", event):
            pytest.fail("held twice")
        with claimed("payments", "payments.capture_payment", event):
            pass


def test_a_claim_is_let_go_when_the_reaction_fails() -> None:
    event = world.new_id()
    with pytest.raises(ZeroDivisionError), claimed("payments", "payments.authorize_payment", event):
        _ = 1 / 0
    with claimed("payments", "payments.authorize_payment", event):
        pass


def test_a_claim_of_another_process_ends_when_that_is_killed(data_dir: Path) -> None:
    event = world.new_id()
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


def can_be_claimed(event: object) -> bool:
    try:
        with claimed("payments", "payments.authorize_payment", event):  # type: ignore[arg-type]
            return True
    except NotYet:
        return False
