"""The ledger: what each answer of the provider does to it, and when both have to be asked again."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from uuid import UUID

import pytest
from django.db import IntegrityError, transaction

from choreography.core import clock
from choreography.core.errors import Conflict
from choreography.outbox.announcing import transaction_of
from choreography.testing import FrozenClock
from payments import services
from payments.gateway import Authorized, Captured, Declined, GatewayTimeout, Outcome, Refunded, Refused, Voided, gateway
from payments.models import Entry, Outbox, Payment
from payments.sandbox import SandboxGateway

pytestmark = pytest.mark.django_db(databases="__all__")

ORDER = UUID(int=1)
REF = "auth_1"


@pytest.fixture(autouse=True)
def frozen() -> Iterator[FrozenClock]:
    frozen = FrozenClock()
    with clock.use_clock(frozen):
        yield frozen


def payment() -> Payment:
    return Payment.objects.get(pk=ORDER)


def announced() -> list[str]:
    return [row.event_type.split(".")[1] for row in Outbox.objects.order_by("position")]


def seen() -> Payment:
    [payment] = Payment.objects.current([ORDER])
    return payment


@contextmanager
def holding() -> Iterator[Payment]:
    with transaction_of("payments"), Payment.objects.locked([ORDER]) as [payment]:
        yield payment


def authorize(answer: Outcome | None = Authorized(REF, 100, "EUR")) -> None:  # noqa: B008 (frozen)
    with holding() as payment:
        services.record_authorization(payment, 100, "EUR", answer)


def capture(answer: Outcome | None = Captured(REF, 100)) -> None:  # noqa: B008 (frozen)
    with holding() as payment:
        services.record_capture(payment, answer)


def release(answer: Outcome | None) -> None:
    with holding() as payment:
        services.record_release(payment, answer)


def expire(answer: Outcome) -> None:
    with holding() as payment:
        services.record_expiry(payment, answer)


def ask_to_authorize(token: str = "tok_approved") -> Outcome | None:
    return services.ask_to_authorize(seen(), token, 100, "EUR")


def amounts() -> tuple[int, int, int, int]:
    now = payment()
    return now.authorized, now.captured, now.voided, now.refunded


# Authorizing


def test_an_authorization_is_entered_and_announced() -> None:
    authorize()
    assert amounts() == (100, 0, 0, 0)
    assert (payment().held, payment().kept, payment().is_answered) == (100, 0, True)
    assert (payment().reference, payment().authorized_at) == (REF, clock.now())
    assert list(Entry.objects.values_list("kind", "amount", "key")) == [("authorized", 100, f"{ORDER}:authorize")]
    assert announced() == ["payment_authorized"]


def test_a_declined_card_is_an_answer_too() -> None:
    authorize(Declined("expired_card"))
    assert (payment().declined, payment().is_answered, payment().held) == ("expired_card", True, 0)
    assert announced() == ["payment_declined"]


@pytest.mark.parametrize(("reason", "kept"), [("no " * 50, ("no " * 50)[:100]), ("", "unknown"), ("  ", "unknown")])
def test_a_reason_that_is_too_long_or_missing_declines_all_the_same(reason: str, kept: str) -> None:
    authorize(Declined(reason))
    assert (payment().declined, payment().is_answered) == (kept, True)
    assert announced() == ["payment_declined"]


@pytest.mark.parametrize("answer", [Authorized(REF, 100, "EUR"), Declined("expired_card")])
def test_an_answer_that_comes_after_the_cancellation_is_asked_for_again(answer: Outcome) -> None:
    release(None)
    with pytest.raises(Conflict):
        authorize(answer)
    assert announced() == []


def test_what_was_held_for_a_cancelled_order_is_entered_as_held_and_let_go() -> None:
    release(None)
    authorize(Voided(REF, 100))
    assert amounts() == (100, 0, 100, 0)
    assert announced() == ["payment_voided"]


def test_an_order_cancelled_before_anything_was_held_is_voided_with_nothing() -> None:
    release(None)
    authorize(None)
    assert amounts() == (0, 0, 0, 0)
    assert announced() == ["payment_voided"]


def test_an_answer_that_fits_no_authorization_is_asked_for_again() -> None:
    with pytest.raises(Conflict):
        authorize(Captured(REF, 100))


def test_asking_for_a_cancelled_order_holds_nothing() -> None:
    release(None)
    assert ask_to_authorize() is None
    assert gateway().find(f"{ORDER}:authorize") is None


def test_asking_again_for_a_cancelled_order_lets_go_of_what_an_earlier_attempt_held() -> None:
    assert isinstance(ask_to_authorize(), Authorized)
    release(None)
    for _ in range(2):
        assert isinstance(ask_to_authorize(), Voided)


def test_asking_twice_holds_once() -> None:
    first = ask_to_authorize()
    assert ask_to_authorize() == first


def test_an_unknown_outcome_is_asked_about_before_anything_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(GatewayTimeout):
        ask_to_authorize("tok_timeout")
    monkeypatch.setattr(SandboxGateway, "authorize", lambda self, **call: pytest.fail("tried again"))
    assert isinstance(ask_to_authorize("tok_timeout"), Authorized)


# Capturing


def test_a_capture_is_entered_and_announced() -> None:
    authorize()
    capture()
    assert amounts() == (100, 100, 0, 0)
    assert (payment().held, payment().kept) == (0, 100)
    assert announced()[-1] == "payment_captured"


def test_a_refused_capture_is_announced_for_a_person() -> None:
    authorize()
    capture(Refused("authorization_expired"))
    assert payment().capture_refused == "authorization_expired"
    assert announced()[-1] == "capture_failed"


@pytest.mark.parametrize(("reason", "kept"), [("x" * 150, "x" * 100), ("", "unknown")])
def test_a_capture_is_refused_whatever_the_reason(reason: str, kept: str) -> None:
    authorize()
    capture(Refused(reason))
    assert payment().capture_refused == kept
    assert announced()[-1] == "capture_failed"


def test_a_capture_that_finds_the_hold_let_go_of_enters_that() -> None:
    """Whoever let go of it may have died before."""
    authorize()
    capture(Voided(REF, 100))
    assert amounts() == (100, 0, 100, 0)
    assert payment().capture_refused == "already_voided"
    assert announced()[-2:] == ["authorization_expired", "capture_failed"]


def test_a_capture_that_finds_the_hold_let_go_of_and_entered_is_refused() -> None:
    authorize()
    expire(Voided(REF, 100))
    capture(Voided(REF, 100))
    assert amounts() == (100, 0, 100, 0)
    assert announced()[-2:] == ["authorization_expired", "capture_failed"]


def test_no_answer_to_a_capture_is_asked_for_again() -> None:
    authorize()
    with pytest.raises(Conflict):
        capture(None)


def test_nothing_is_captured_for_a_cancelled_order() -> None:
    authorize()
    release(Voided(REF, 100))
    assert services.ask_to_capture(seen()) is None
    capture(None)
    assert announced() == ["payment_authorized", "payment_voided"]


@pytest.mark.parametrize("known", [True, False])
def test_what_was_never_authorized_is_never_captured(known: bool) -> None:
    if known:
        authorize(Declined("expired_card"))
    with pytest.raises(services.NothingHeld):
        services.ask_to_capture(seen())


# Releasing


def test_what_is_held_is_let_go() -> None:
    authorize()
    release(Voided(REF, 100))
    assert amounts() == (100, 0, 100, 0)
    assert payment().order_cancelled
    assert announced()[-1] == "payment_voided"


def test_what_was_taken_is_given_back() -> None:
    authorize()
    capture()
    release(Refunded(REF, 100))
    assert amounts() == (100, 100, 0, 100)
    assert announced()[-1] == "payment_refunded"


def test_a_cancellation_before_the_order_is_only_remembered() -> None:
    release(None)
    assert payment().order_cancelled
    assert announced() == []


def test_a_declined_card_has_nothing_to_release() -> None:
    authorize(Declined("expired_card"))
    release(None)
    assert announced() == ["payment_declined"]


@pytest.mark.parametrize(
    ("before", "answer"),
    [
        ([authorize], None),
        ([authorize], Refunded(REF, 100)),
        ([authorize], Voided(REF, 99)),
        ([authorize], Refused("already_captured")),
        ([authorize, capture], None),
        ([authorize, capture], Voided(REF, 100)),
        ([authorize, capture], Refunded(REF, 1)),
        ([authorize, capture], Refused("already_refunded")),
        ([], Voided(REF, 100)),
    ],
    ids=lambda value: repr([step.__name__ for step in value] if isinstance(value, list) else value),
)
def test_an_answer_that_does_not_fit_the_ledger_is_asked_for_again(
    before: list[Callable[[], None]], answer: Outcome | None
) -> None:
    for step in before:
        step()
    with pytest.raises(Conflict):
        release(answer)
    assert not Payment.objects.filter(order_cancelled=True).exists()


def test_the_question_fits_the_ledger() -> None:
    assert services.ask_to_release(seen()) is None
    held = ask_to_authorize()
    authorize(held)
    captured = services.ask_to_capture(seen())
    capture(captured)
    assert isinstance(captured, Captured)
    given_back = services.ask_to_release(seen())
    release(given_back)
    assert isinstance(given_back, Refunded)
    assert services.ask_to_release(seen()) is None


# Expiring


def test_an_expiry_is_entered_only_while_the_hold_is_open() -> None:
    authorize()
    expire(Refused("already_captured"))
    assert payment().held == 100
    expire(Voided(REF, 100))
    expire(Voided(REF, 100))
    assert announced() == ["payment_authorized", "authorization_expired"]


def test_an_order_cancelled_after_its_hold_expired_is_voided_with_nothing() -> None:
    authorize()
    expire(Voided(REF, 100))
    release(None)
    assert announced()[-1] == "payment_voided"
    assert amounts() == (100, 0, 100, 0)


# What the database refuses, each once on purpose

BROKEN: dict[str, dict[str, Any]] = {
    "payments_no_more_authorized_than_asked": {"asked": 99, "authorized": 100},
    "payments_no_more_used_than_authorized": {"asked": 100, "authorized": 100, "captured": 60, "voided": 41},
    "payments_no_more_refunded_than_captured": {"asked": 100, "authorized": 100, "captured": 60, "refunded": 61},
    "payments_never_declined_and_authorized": {"asked": 100, "authorized": 100, "declined": "expired_card"},
}


@pytest.mark.parametrize("constraint", BROKEN)
def test_the_database_refuses_amounts_that_contradict_each_other(constraint: str) -> None:
    with pytest.raises(IntegrityError, match=constraint), transaction.atomic(using="payments"):
        Payment.objects.create(pk=ORDER, **BROKEN[constraint])


def test_money_moves_once_per_idempotency_key() -> None:
    authorize()
    with pytest.raises(IntegrityError), holding() as again:
        again.enter(Entry.Kind.VOIDED, 1, f"{ORDER}:authorize")
    assert amounts() == (100, 0, 0, 0)


def test_capturing_twice_is_refused_by_the_ledger_itself() -> None:
    authorize()
    capture()
    with pytest.raises(IntegrityError):
        capture()
    assert amounts() == (100, 100, 0, 0)
