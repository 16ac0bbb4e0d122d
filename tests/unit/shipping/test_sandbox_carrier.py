"""The sandbox carrier: what each address does, and the promises a carrier keeps."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest
from django.core.signals import setting_changed

from shipping.carrier import (
    Address,
    Booked,
    Carrier,
    CarrierDown,
    Tracking,
    Undeliverable,
    UnknownParcel,
)
from shipping.carrier import carrier as configured_carrier
from shipping.sandbox import ParcelEntry, SandboxCarrier

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
DELIVERY_SECONDS = 10
REPOSITORY = Path(__file__).parents[3]
RACERS = 6


class Clock:
    def __init__(self) -> None:
        self.time = NOON

    def __call__(self) -> datetime:
        return self.time

    def pass_seconds(self, seconds: float) -> None:
        self.time += timedelta(seconds=seconds)


def no_sleep(seconds: float) -> None:
    pytest.fail(f"slept for {seconds} s")


def open_carrier(
    folder: Path,
    clock: Clock,
    sleep: Callable[[float], None] = no_sleep,
    latency_seconds: float = 0.0,
) -> SandboxCarrier:
    return SandboxCarrier(
        folder / "sandbox" / "carrier.sqlite3",
        clock=clock,
        sleep=sleep,
        delivery_seconds=DELIVERY_SECONDS,
        latency_seconds=latency_seconds,
    )


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def carrier(tmp_path: Path, clock: Clock) -> SandboxCarrier:
    return open_carrier(tmp_path, clock)


def address(street: str) -> Address:
    return Address("Ada Quill", street, "Busan", "48058", "KR")


def book(carrier: Carrier, street: str = "1 Harbour Road", key: str = "s") -> Booked | Undeliverable:
    return carrier.book(key=key, address=address(street))


def sent(carrier: Carrier, street: str = "1 Harbour Road") -> str:
    """The name of a parcel just booked."""
    return cast(Booked, book(carrier, street)).parcel


# What each address does


def test_a_parcel_is_in_transit_until_it_is_delivered(carrier: SandboxCarrier, clock: Clock) -> None:
    parcel = sent(carrier)

    clock.pass_seconds(DELIVERY_SECONDS - 0.001)
    assert carrier.track(parcel) is Tracking.IN_TRANSIT
    clock.pass_seconds(0.001)
    assert carrier.track(parcel) is Tracking.DELIVERED


def test_an_undeliverable_address_is_refused_and_booked(carrier: SandboxCarrier) -> None:
    assert book(carrier, "2 Undeliverable Road") == Undeliverable("no_such_address")
    assert carrier.find("s") == Undeliverable("no_such_address")
    assert carrier.records() == [
        ParcelEntry(
            key="s",
            parcel=None,
            state=None,
            scenario="undeliverable",
            booked_at=NOON,
            due_at=None,
        )
    ]


def test_a_slow_parcel_takes_five_times_as_long(carrier: SandboxCarrier, clock: Clock) -> None:
    parcel = sent(carrier, "3 Slow Lane")

    clock.pass_seconds(5 * DELIVERY_SECONDS - 0.001)
    assert carrier.track(parcel) is Tracking.IN_TRANSIT
    clock.pass_seconds(0.001)
    assert carrier.track(parcel) is Tracking.DELIVERED


def test_a_lost_parcel_is_known_to_be_lost_when_it_should_have_arrived(carrier: SandboxCarrier, clock: Clock) -> None:
    parcel = sent(carrier, "4 Lost Valley")

    assert carrier.track(parcel) is Tracking.IN_TRANSIT
    clock.pass_seconds(DELIVERY_SECONDS)
    assert carrier.track(parcel) is Tracking.LOST


def test_a_carrier_that_is_down_books_nothing(carrier: SandboxCarrier) -> None:
    for _ in range(4):
        with pytest.raises(CarrierDown):
            book(carrier, "5 Unreachable Island")
    assert carrier.find("s") is None
    assert carrier.records() == []


def test_every_call_takes_the_latency_asked_for(tmp_path: Path, clock: Clock) -> None:
    slept: list[float] = []
    carrier = open_carrier(tmp_path, clock, slept.append, latency_seconds=0.25)

    parcel = sent(carrier)
    carrier.track(parcel)
    carrier.find("s")
    carrier.cancel(parcel=parcel)

    assert slept == [0.25] * 4


# Calling back


def test_a_parcel_called_back_on_its_way_never_arrives(carrier: SandboxCarrier, clock: Clock) -> None:
    parcel = sent(carrier)

    assert carrier.cancel(parcel=parcel)
    clock.pass_seconds(DELIVERY_SECONDS)
    assert carrier.track(parcel) is Tracking.CANCELLED
    assert carrier.cancel(parcel=parcel), "called back already is no failure"


@pytest.mark.parametrize(
    ("street", "state"),
    [("1 Harbour Road", Tracking.DELIVERED), ("4 Lost Valley", Tracking.LOST)],
)
def test_it_is_too_late_to_call_back_what_has_ended(
    carrier: SandboxCarrier, clock: Clock, street: str, state: Tracking
) -> None:
    parcel = sent(carrier, street)
    clock.pass_seconds(DELIVERY_SECONDS)

    assert not carrier.cancel(parcel=parcel)
    assert carrier.track(parcel) is state


def test_an_unknown_parcel_is_an_error(carrier: SandboxCarrier) -> None:
    with pytest.raises(UnknownParcel):
        carrier.track("nothing")
    with pytest.raises(UnknownParcel):
        carrier.cancel(parcel="nothing")


# The records


def test_a_repeated_key_gets_the_first_answer_from_any_instance(
    carrier: SandboxCarrier, tmp_path: Path, clock: Clock
) -> None:
    first = book(carrier)
    clock.pass_seconds(DELIVERY_SECONDS)

    other = open_carrier(tmp_path, clock)
    assert book(other) == other.find("s") == first
    assert [entry.due_at for entry in other.records()] == [NOON + timedelta(seconds=DELIVERY_SECONDS)]


def test_different_keys_are_different_parcels(carrier: SandboxCarrier) -> None:
    assert book(carrier, key="one") != book(carrier, key="two")
    assert [entry.key for entry in carrier.records()] == ["one", "two"]


def test_nothing_of_the_person_is_kept(carrier: SandboxCarrier, tmp_path: Path) -> None:
    book(carrier, "4 Lost Valley")

    kept = b"".join(file.read_bytes() for file in (tmp_path / "sandbox").iterdir())
    assert b"lost" in kept
    assert not any(word in kept for word in [b"Ada", b"Quill", b"Valley", b"Busan", b"48058"])


def tell_settings_changed() -> None:
    setting_changed.send(None, setting="SANDBOX_DIR", value=None, enter=True)


@pytest.fixture
def settings_undone() -> Iterator[None]:
    """Nothing made from a test's settings outlives it."""
    yield
    tell_settings_changed()


@pytest.mark.usefixtures("settings_undone")
def test_the_settings_choose_and_describe_the_carrier(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = SimpleNamespace(
        CARRIER="shipping.sandbox.SandboxCarrier",
        SANDBOX_DIR=tmp_path,
        SANDBOX_DELIVERY_SECONDS=3600.0,
        SANDBOX_LATENCY_SECONDS=0.0,
    )
    monkeypatch.setattr("choreography.events.external_systems.settings", settings)
    monkeypatch.setattr("shipping.sandbox.settings", settings)
    tell_settings_changed()

    chosen = configured_carrier()
    parcel = sent(chosen)

    assert configured_carrier() is chosen
    [entry] = SandboxCarrier(tmp_path / "carrier.sqlite3").records()
    assert entry.due_at is not None
    assert (entry.parcel, entry.due_at - entry.booked_at) == (parcel, timedelta(hours=1))
    tell_settings_changed()
    assert configured_carrier() is not chosen


RACER = """
import sys
from pathlib import Path
from shipping.carrier import Address
from shipping.sandbox import SandboxCarrier
carrier = SandboxCarrier(Path(sys.argv[1]), delivery_seconds=3600, latency_seconds=0)
print("ready", flush=True)
sys.stdin.readline()
print(carrier.book(key="s", address=Address("", "", "", "", "")))
"""


def test_processes_racing_with_one_key_send_one_parcel(tmp_path: Path, clock: Clock) -> None:
    racers = [
        subprocess.Popen(
            [sys.executable, "-c", RACER, str(tmp_path / "sandbox" / "carrier.sqlite3")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=REPOSITORY,
            env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        )
        for _ in range(RACERS)
    ]
    for racer in racers:
        assert racer.stdout
        assert racer.stdout.readline() == "ready\n"
    for racer in racers:
        assert racer.stdin
        racer.stdin.write("go\n")
        racer.stdin.flush()
    answers = [racer.communicate(timeout=30)[0].strip() for racer in racers]

    carrier = open_carrier(tmp_path, clock)
    assert answers == [repr(carrier.find("s"))] * RACERS
    assert len(carrier.records()) == 1


def test_threads_share_one_carrier(carrier: SandboxCarrier) -> None:
    parcel = sent(carrier)

    with ThreadPoolExecutor(8) as pool:
        called_back = list(pool.map(lambda _: carrier.cancel(parcel=parcel), range(40)))

    assert all(called_back)
    assert [entry.state for entry in carrier.records()] == [Tracking.CANCELLED]
