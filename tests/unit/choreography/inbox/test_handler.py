"""One delivery: done, a duplicate, retried later, or parked; and whatever comes back is committed."""

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any
from uuid import uuid4

import pytest
from django.db import DatabaseError, IntegrityError, OperationalError

from choreography.core import clock
from choreography.core.errors import Conflict, ContractError, NotYet, Outage, Transient
from choreography.inbox import handler, parking
from choreography.inbox.deliveries import (
    ATTEMPTS,
    DATABASE,
    DEAD_LETTER,
    FIRST_SEEN,
    GIVEN_UP,
    WAITS,
    Delivery,
    Done,
    Duplicate,
    Outcome,
    Parked,
    RetryLater,
)
from choreography.inbox.handler import handle_one
from choreography.storage.tables import ServiceTables
from payments.gateway import GatewayDown
from payments.models import DeadLetter, Inbox, Outbox, Payment
from tests.unit.choreography.authorizing import CLOUDEVENT, ORDER, calling, failing, nothing_was_stored, placed

Change = Callable[..., None]

pytestmark = [pytest.mark.django_db(databases="__all__"), pytest.mark.usefixtures("frozen")]


def test_done_means_the_change_the_inbox_row_and_the_announcement_are_there() -> None:
    assert handle_one(placed()) == Done()
    assert Payment.objects.get(pk=ORDER).authorized == 2500
    entry = Inbox.objects.get()
    assert (entry.reaction, entry.subject, entry.attempts) == ("payments.authorize_payment", str(ORDER), 1)
    row = Outbox.objects.get()
    event = json.loads(row.body)
    assert (row.event_type, row.caused_by) == ("payments.payment_authorized.v1", entry.event_id)
    assert (event["causationid"], event["correlationid"]) == (str(entry.event_id), "flow")


def test_a_second_delivery_is_a_duplicate_and_does_not_even_call_the_provider(change: Change) -> None:
    handle_one(placed())
    change(ask=calling(lambda event: pytest.fail("called again")))
    assert handle_one(placed()) == Duplicate()
    assert Outbox.objects.count() == 1


def test_a_second_delivery_at_the_same_time_waits_and_then_is_a_duplicate(change: Change) -> None:
    """Only one of them may call the provider."""
    copies: list[Outcome] = []
    change(ask=calling(lambda event: copies.append(handle_one(placed()))))
    assert handle_one(placed()) == Done()
    assert [type(copy) for copy in copies] == [RetryLater]
    assert handle_one(placed()) == Duplicate()
    assert Outbox.objects.count() == Inbox.objects.count() == 1


@pytest.mark.parametrize(
    ("error", "outcome"),
    [
        (NotYet(), RetryLater),
        (Outage(), RetryLater),
        (Transient(), RetryLater),
        (ZeroDivisionError(), RetryLater),
        (OperationalError("server closed the connection unexpectedly"), RetryLater),
        (IntegrityError("CHECK constraint failed: payments_no_more_authorized_than_asked"), RetryLater),
        (ContractError("not declared"), Parked),
    ],
    ids=repr,
)
def test_a_failed_attempt_changes_nothing(change: Change, error: Exception, outcome: type[Outcome]) -> None:
    change(function=failing(error))
    assert isinstance(handle_one(placed()), outcome)
    assert nothing_was_stored()


def test_a_database_error_inside_the_reaction_is_no_duplicate(change: Change) -> None:
    """Only the inbox row's own refusal is."""

    def function(payment: Payment, event: Any, answer: Any) -> None:
        payment.asked, payment.authorized = 1, 2

    change(function=function)
    outcome = handle_one(placed())
    assert isinstance(outcome, RetryLater)
    assert isinstance(outcome.error, IntegrityError)


def test_a_worker_that_is_killed_leaves_nothing(change: Change) -> None:
    change(function=failing(KeyboardInterrupt()))
    with pytest.raises(KeyboardInterrupt):
        handle_one(placed())
    assert nothing_was_stored()


def test_a_conflict_starts_over_at_once_with_a_new_call(change: Change) -> None:
    numbers = iter(range(1, 100))

    def function(payment: Payment, event: Any, answer: int) -> None:
        if answer < 5:
            raise Conflict

    change(function=function, ask=lambda payment, event: next(numbers))
    assert handle_one(placed()) == Done()
    assert next(numbers) == 6


def test_a_conflict_that_lasts_is_tried_again_later(change: Change) -> None:
    change(function=failing(Conflict()))
    outcome = handle_one(placed())
    assert isinstance(outcome, RetryLater)
    assert outcome.again.headers[ATTEMPTS] == 1


def test_attempts_are_counted_over_deliveries(change: Change) -> None:
    change(function=failing(ZeroDivisionError()))
    delivery, outcomes = placed(), []
    for _ in range(3):
        outcome = handle_one(delivery)
        outcomes.append(type(outcome))
        if isinstance(outcome, RetryLater):
            delivery = replace(delivery, headers=outcome.again.headers)
    assert outcomes == [RetryLater, RetryLater, Parked]
    assert DeadLetter.objects.get().attempts == 3


def test_what_the_broker_gave_up_is_parked_with_its_reason() -> None:
    assert isinstance(handle_one(placed(given_up="delivery_limit")), Parked)
    assert DeadLetter.objects.get().message == "the broker gave it up: delivery_limit"
    assert not Inbox.objects.exists()


def test_parking_twice_keeps_one_dead_letter(monkeypatch: pytest.MonkeyPatch) -> None:
    for reason in ("rejected", "delivery_limit"):
        handle_one(placed(given_up=reason))
    assert DeadLetter.objects.get().message == "the broker gave it up: delivery_limit"


def test_a_dead_letter_sent_again_is_resolved_with_the_change() -> None:
    handle_one(placed(given_up="rejected"))
    dead_letter = DeadLetter.objects.get()
    assert dead_letter.key == placed().key

    assert handle_one(placed(headers={DEAD_LETTER: dead_letter.key})) == Done()

    dead_letter.refresh_from_db()
    assert dead_letter.state == dead_letter.State.RESOLVED
    assert dead_letter.resolved_at == clock.now()


def test_a_dead_letter_sent_again_that_fails_stays_open(change: Change) -> None:
    handle_one(placed(given_up="rejected"))
    dead_letter = DeadLetter.objects.get()
    change(function=failing(NotYet()))
    assert isinstance(handle_one(placed(headers={DEAD_LETTER: dead_letter.key})), RetryLater)
    dead_letter.refresh_from_db()
    assert dead_letter.resolved_at is None


def test_when_the_dead_letter_cannot_be_written_the_message_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: Any) -> None:
        raise DatabaseError("no space left on device")

    monkeypatch.setattr(handler, "park", refuse)
    outcome = handle_one(placed(given_up="rejected"))
    assert isinstance(outcome, RetryLater)
    assert not DeadLetter.objects.exists()


def test_what_the_broker_gave_up_stays_given_up_over_the_ladder(monkeypatch: pytest.MonkeyPatch) -> None:
    """It comes back through the inbox, where nothing else tells it from a message that was never tried."""

    def refuse(*args: Any) -> None:
        raise OperationalError("gone")

    monkeypatch.setattr(handler, "park", refuse)
    waits = handle_one(placed(given_up="delivery_limit"))
    assert isinstance(waits, RetryLater)
    assert waits.down == DATABASE
    monkeypatch.setattr(handler, "park", parking.park)

    assert isinstance(handle_one(placed(headers=waits.again.headers)), Parked)

    dead_letter = DeadLetter.objects.get()
    assert dead_letter.message == "the broker gave it up: delivery_limit"
    assert GIVEN_UP not in dead_letter.headers, "sent again, it is a message like any other"


@pytest.mark.parametrize(
    ("error", "down"),
    [
        (OperationalError("gone"), DATABASE),
        (GatewayDown(), "payment gateway"),
        (Transient(), None),
        (NotYet(), None),
        (ZeroDivisionError(), None),
    ],
    ids=repr,
)
def test_an_outage_says_what_seems_to_be_down(change: Change, error: Exception, down: str | None) -> None:
    change(function=failing(error))
    outcome = handle_one(placed())
    assert isinstance(outcome, RetryLater)
    assert outcome.down == down


@pytest.mark.parametrize(("error", "recorded"), [(OperationalError("gone"), False), (GatewayDown(), True)], ids=repr)
def test_what_waits_for_the_database_is_not_recorded_there(change: Change, error: Exception, recorded: bool) -> None:
    change(function=failing(error))
    assert isinstance(handle_one(placed()), RetryLater)
    assert ServiceTables("payments").retries.exists() is recorded


def test_an_outage_where_no_external_system_is_named_suspects_none(change: Change) -> None:
    change(function=failing(Outage()), external_system=None)
    outcome = handle_one(placed())
    assert isinstance(outcome, RetryLater)
    assert outcome.down is None


def test_each_service_has_dead_letters_of_its_own() -> None:
    for service in ("orders", "payments", "shipping"):
        assert isinstance(handle_one(Delivery(service, b"rubbish", CLOUDEVENT)), Parked)
        assert ServiceTables(service).dead_letters.count() == 1


def test_the_error_of_an_unusable_message_names_the_field_and_never_its_value() -> None:
    secret = "4242424242424242"
    body = placed().body.replace(b'"total": 2500', f'"total": "{secret}"'.encode())
    handle_one(placed(body=body))
    dead_letter = DeadLetter.objects.get()
    assert "data.total" in dead_letter.message
    assert secret not in dead_letter.message + dead_letter.traceback


def test_the_inbox_remembers_which_attempt_worked() -> None:
    headers = {ATTEMPTS: 4, WAITS: 9, FIRST_SEEN: clock.now().isoformat()}
    handle_one(placed(headers=headers))
    assert Inbox.objects.get().attempts == 5


def test_a_subject_nobody_knows_makes_no_row_elsewhere() -> None:
    unknown = str(uuid4()).encode()
    outcome = handle_one(placed(service="orders", body=placed().body.replace(str(ORDER).encode(), unknown)))
    assert isinstance(outcome, Parked)
    assert not Payment.objects.exists()
