"""The sandbox gateway: what each token does, and the promises a payment provider keeps."""

import multiprocessing
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest
from django.core.signals import setting_changed

from payments.gateway import (
    Authorized,
    Captured,
    Declined,
    Gateway,
    GatewayDown,
    GatewayError,
    GatewayTimeout,
    KeyReused,
    Refunded,
    Refused,
    Voided,
)
from payments.gateway import gateway as configured_gateway
from payments.sandbox import TOKENS, RecordEntry, SandboxGateway

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
REPOSITORY = Path(__file__).parents[3]
RACERS = 6


def no_sleep(seconds: float) -> None:
    pytest.fail(f"slept for {seconds} s")


def open_gateway(
    folder: Path, sleep: Callable[[float], None] = no_sleep, latency_seconds: float = 0.0
) -> SandboxGateway:
    return SandboxGateway(
        folder / "sandbox" / "gateway.sqlite3",
        clock=lambda: NOON,
        sleep=sleep,
        slow_seconds=7.0,
        latency_seconds=latency_seconds,
    )


@pytest.fixture
def gateway(tmp_path: Path) -> SandboxGateway:
    return open_gateway(tmp_path)


def authorize(
    gateway: Gateway, token: str = "tok_approved", key: str = "a", amount: int = 1000
) -> Authorized | Declined:
    return gateway.authorize(key=key, token=token, amount=amount, currency="KRW")


def held(gateway: Gateway, token: str = "tok_approved", amount: int = 1000) -> str:
    """The reference of a new authorization."""
    return cast(Authorized, authorize(gateway, token, amount=amount)).reference


def moved(gateway: SandboxGateway) -> list[tuple[str, int]]:
    return [(entry.outcome, entry.amount) for entry in gateway.records()]


# What each token does


def test_an_approved_token_is_authorized_and_booked(gateway: SandboxGateway) -> None:
    outcome = authorize(gateway)

    assert isinstance(outcome, Authorized)
    assert (outcome.amount, outcome.currency) == (1000, "KRW")
    assert gateway.find("a") == outcome
    assert gateway.records() == [
        RecordEntry(
            key="a",
            kind="authorize",
            reference=outcome.reference,
            token="tok_approved",
            amount=1000,
            currency="KRW",
            outcome="authorized",
            reason="",
            recorded_at=NOON,
        )
    ]


@pytest.mark.parametrize(
    ("token", "reason"),
    [
        ("tok_declined_funds", "insufficient_funds"),
        ("tok_declined_expired", "expired_card"),
        ("tok_declined_fraud", "suspected_fraud"),
        ("4242424242424242", "invalid_token"),
    ],
)
def test_a_declined_token_is_booked_without_an_amount(gateway: SandboxGateway, token: str, reason: str) -> None:
    assert authorize(gateway, token) == Declined(reason)
    assert gateway.find("a") == Declined(reason)
    assert moved(gateway) == [("declined", 0)]


def test_an_unknown_token_is_not_kept(gateway: SandboxGateway, tmp_path: Path) -> None:
    authorize(gateway, "4242424242424242")

    files = (tmp_path / "sandbox").iterdir()
    assert not any(b"4242424242424242" in file.read_bytes() for file in files)


def test_a_token_that_fails_twice_works_the_third_time_whoever_asks(gateway: SandboxGateway, tmp_path: Path) -> None:
    with pytest.raises(GatewayError):
        authorize(gateway, "tok_fails_twice")
    with pytest.raises(GatewayError):
        authorize(open_gateway(tmp_path), "tok_fails_twice")
    assert gateway.find("a") is None

    assert isinstance(authorize(gateway, "tok_fails_twice"), Authorized)
    with pytest.raises(GatewayError):
        authorize(gateway, "tok_fails_twice", key="another")


def test_a_gateway_that_is_down_books_nothing_however_often_it_is_asked(
    gateway: SandboxGateway,
) -> None:
    for _ in range(4):
        with pytest.raises(GatewayDown):
            authorize(gateway, "tok_down")
    assert gateway.find("a") is None
    assert gateway.records() == []


def test_an_authorization_whose_answer_is_lost_can_be_found(gateway: SandboxGateway) -> None:
    with pytest.raises(GatewayTimeout):
        authorize(gateway, "tok_timeout")

    found = gateway.find("a")
    assert isinstance(found, Authorized)
    assert authorize(gateway, "tok_timeout") == found
    assert moved(gateway) == [("authorized", 1000)]


def test_a_slow_answer_takes_its_time_after_the_booking(tmp_path: Path) -> None:
    booked_before_sleeping = []

    def sleep(seconds: float) -> None:
        booked_before_sleeping.append((seconds, moved(slow)))

    slow = open_gateway(tmp_path, sleep)

    assert isinstance(authorize(slow, "tok_slow"), Authorized)
    assert booked_before_sleeping == [(7.0, [("authorized", 1000)])]


def test_every_call_takes_the_latency_asked_for(tmp_path: Path) -> None:
    slept: list[float] = []
    gateway = open_gateway(tmp_path, slept.append, latency_seconds=0.25)

    reference = held(gateway)
    gateway.capture(key="c", reference=reference, amount=1000)
    gateway.refund(key="r", reference=reference, amount=1000)
    gateway.void(key="v", reference=reference)
    gateway.find("a")

    assert slept == [0.25] * 5


def test_an_expired_authorization_refuses_the_capture_and_can_be_voided(
    gateway: SandboxGateway,
) -> None:
    reference = held(gateway, "tok_capture_refused")

    refused = gateway.capture(key="c", reference=reference, amount=1000)

    assert refused == gateway.find("c") == Refused("authorization_expired")
    assert gateway.void(key="v", reference=reference) == Voided(reference, 1000)
    assert moved(gateway) == [("authorized", 1000), ("refused", 0), ("voided", 1000)]


def test_a_capture_whose_answer_is_lost_can_be_found(gateway: SandboxGateway) -> None:
    reference = held(gateway, "tok_capture_timeout")
    with pytest.raises(GatewayTimeout):
        gateway.capture(key="c", reference=reference, amount=1000)

    assert gateway.find("c") == Captured(reference, 1000)
    again = gateway.capture(key="c", reference=reference, amount=1000)
    assert again == Captured(reference, 1000)
    assert moved(gateway) == [("authorized", 1000), ("captured", 1000)]


@pytest.mark.parametrize(
    "token",
    sorted(token for token in TOKENS if "declined" not in token and token != "tok_down"),
)
def test_every_other_token_is_approved_sooner_or_later(tmp_path: Path, token: str) -> None:
    gateway = open_gateway(tmp_path, sleep=lambda seconds: None)
    for _ in range(2):
        try:
            authorize(gateway, token)
        except (GatewayError, GatewayTimeout):
            continue
    assert isinstance(authorize(gateway, token), Authorized)


# Idempotency keys


def test_a_repeated_key_gets_the_first_answer_from_any_instance(gateway: SandboxGateway, tmp_path: Path) -> None:
    first = authorize(gateway)

    assert authorize(open_gateway(tmp_path)) == first
    assert len(gateway.records()) == 1


def test_a_refused_operation_stays_refused_for_its_key(gateway: SandboxGateway) -> None:
    reference = held(gateway)
    refused = gateway.refund(key="r", reference=reference, amount=1000)
    gateway.capture(key="c", reference=reference, amount=1000)

    assert gateway.refund(key="r", reference=reference, amount=1000) == refused
    assert gateway.refund(key="r2", reference=reference, amount=1000) == Refunded(reference, 1000)


@pytest.mark.parametrize(
    "call",
    [
        lambda g: g.authorize(key="a", token="tok_approved", amount=1001, currency="KRW"),
        lambda g: g.authorize(key="a", token="tok_approved", amount=1000, currency="EUR"),
        lambda g: g.authorize(key="a", token="tok_slow", amount=1000, currency="KRW"),
        lambda g: g.void(key="a", reference="auth_1"),
        lambda g: g.capture(key="a", reference="auth_1", amount=1000),
    ],
    ids=["amount", "currency", "token", "kind without amount", "kind"],
)
def test_a_key_repeated_with_other_parameters_is_refused(
    gateway: SandboxGateway, call: Callable[[Gateway], object]
) -> None:
    authorize(gateway)
    with pytest.raises(KeyReused, match="'a' was used with other parameters"):
        call(gateway)
    assert moved(gateway) == [("authorized", 1000)]


# The gateway's own rules


def test_captures_together_never_exceed_what_was_authorized(gateway: SandboxGateway) -> None:
    reference = held(gateway)

    too_much = gateway.capture(key="c1", reference=reference, amount=1001)
    part = gateway.capture(key="c2", reference=reference, amount=600)
    rest_and_more = gateway.capture(key="c3", reference=reference, amount=401)
    rest = gateway.capture(key="c4", reference=reference, amount=400)

    assert (too_much, part) == (Refused("exceeds_authorized"), Captured(reference, 600))
    assert (rest_and_more, rest) == (Refused("already_captured"), Captured(reference, 400))


def test_refunds_together_never_exceed_what_was_captured(gateway: SandboxGateway) -> None:
    reference = held(gateway)
    early = gateway.refund(key="r1", reference=reference, amount=1)
    gateway.capture(key="c", reference=reference, amount=600)

    too_much = gateway.refund(key="r2", reference=reference, amount=601)
    part = gateway.refund(key="r3", reference=reference, amount=600)
    more = gateway.refund(key="r4", reference=reference, amount=1)

    assert (early, too_much) == (Refused("not_captured"), Refused("exceeds_captured"))
    assert (part, more) == (Refunded(reference, 600), Refused("already_refunded"))


def test_nothing_is_captured_or_voided_after_a_void(gateway: SandboxGateway) -> None:
    reference = held(gateway)
    assert gateway.void(key="v", reference=reference) == Voided(reference, 1000)

    captured = gateway.capture(key="c", reference=reference, amount=1)
    assert captured == gateway.void(key="v2", reference=reference) == Refused("already_voided")


def test_nothing_is_voided_after_a_capture(gateway: SandboxGateway) -> None:
    reference = held(gateway)
    gateway.capture(key="c", reference=reference, amount=1)

    assert gateway.void(key="v", reference=reference) == Refused("already_captured")


def test_an_unknown_reference_is_refused_and_booked(gateway: SandboxGateway) -> None:
    assert gateway.void(key="v", reference="nowhere") == Refused("unknown_reference")
    captured = gateway.capture(key="c", reference="nowhere", amount=1)
    assert captured == gateway.find("c") == Refused("unknown_reference")


@pytest.mark.parametrize("amount", [0, -1])
def test_only_a_positive_amount_moves(gateway: SandboxGateway, amount: int) -> None:
    assert authorize(gateway, key="none", amount=amount) == Declined("invalid_amount")
    reference = held(gateway)
    captured = gateway.capture(key="c", reference=reference, amount=amount)
    assert captured == Refused("invalid_amount")
    gateway.capture(key="c2", reference=reference, amount=1000)
    refunded = gateway.refund(key="r", reference=reference, amount=amount)
    assert refunded == Refused("invalid_amount")


def tell_settings_changed() -> None:
    setting_changed.send(None, setting="SANDBOX_DIR", value=None, enter=True)


@pytest.fixture
def settings_undone() -> Iterator[None]:
    """Nothing made from a test's settings outlives it."""
    yield
    tell_settings_changed()


@pytest.mark.usefixtures("settings_undone")
def test_the_settings_choose_and_describe_the_gateway(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = SimpleNamespace(
        PAYMENT_GATEWAY="payments.sandbox.SandboxGateway",
        SANDBOX_DIR=tmp_path,
        SANDBOX_SLOW_SECONDS=0.0,
        SANDBOX_LATENCY_SECONDS=0.0,
    )
    monkeypatch.setattr("choreography.events.external_systems.settings", settings)
    monkeypatch.setattr("payments.sandbox.settings", settings)
    tell_settings_changed()

    chosen = configured_gateway()
    outcome = authorize(chosen, "tok_slow")

    assert configured_gateway() is chosen
    assert SandboxGateway(tmp_path / "gateway.sqlite3").find("a") == outcome
    tell_settings_changed()
    assert configured_gateway() is not chosen


# Many at once

RACER = """
import sys
from pathlib import Path
from payments.sandbox import SandboxGateway
gateway = SandboxGateway(Path(sys.argv[1]), slow_seconds=0, latency_seconds=0)
print("ready", flush=True)
sys.stdin.readline()
try:
    print(eval(sys.argv[2]))
except Exception as error:
    print(type(error).__name__)
"""


def race(folder: Path, *calls: str) -> list[str]:
    """One process for each call (Python, of ``gateway``), let go at once: what each got."""
    racers = [
        subprocess.Popen(
            [sys.executable, "-c", RACER, str(folder / "sandbox" / "gateway.sqlite3"), call],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=REPOSITORY,
            env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        )
        for call in calls
    ]
    for racer in racers:
        assert racer.stdout
        assert racer.stdout.readline() == "ready\n"
    for racer in racers:
        assert racer.stdin
        racer.stdin.write("go\n")
        racer.stdin.flush()
    return [racer.communicate(timeout=30)[0].strip() for racer in racers]


def test_processes_racing_with_one_key_book_once(tmp_path: Path) -> None:
    call = "gateway.authorize(key='a', token='tok_timeout', amount=1000, currency='KRW')"

    answers = race(tmp_path, *[call] * RACERS)

    # The timeout goes to the one that booked; the others get what is on record.
    gateway = open_gateway(tmp_path)
    on_record = repr(gateway.find("a"))
    assert sorted(answers) == sorted(["GatewayTimeout"] + [on_record] * (RACERS - 1))
    assert moved(gateway) == [("authorized", 1000)]


def test_processes_racing_with_different_keys_never_take_too_much(tmp_path: Path) -> None:
    gateway = open_gateway(tmp_path)
    reference = held(gateway)
    calls = [f"gateway.capture(key='{n}', reference='{reference}', amount=1000)" for n in range(RACERS)]

    answers = race(tmp_path, *calls, f"gateway.void(key='v', reference='{reference}')")

    assert sum("Refused" not in answer for answer in answers) == 1
    assert sum(amount for outcome, amount in moved(gateway) if outcome != "authorized") == 1000


def test_threads_share_one_gateway(gateway: SandboxGateway) -> None:
    with ThreadPoolExecutor(8) as pool:
        outcomes = list(pool.map(lambda n: authorize(gateway, key=f"a{n % 10}"), range(80)))

    assert len(set(outcomes)) == 10
    assert len(gateway.records()) == 10


def test_a_forked_worker_opens_the_books_itself(gateway: SandboxGateway, tmp_path: Path) -> None:
    reference = held(gateway)
    inherited, in_child = multiprocessing.Pipe(duplex=False)

    def child() -> None:
        in_child.send([name for name in open_files() if str(tmp_path) in name])
        gateway.capture(key="c", reference=reference, amount=1000)

    worker = multiprocessing.get_context("fork").Process(target=child)
    worker.start()
    worker.join(timeout=30)

    assert worker.exitcode == 0
    assert inherited.recv() == []
    assert gateway.find("c") == Captured(reference, 1000)


def open_files() -> list[str]:
    numbers = Path("/proc/self/fd")
    if not numbers.exists():
        return []
    return [str(number.readlink()) for number in numbers.iterdir() if number.is_symlink()]
