"""One delivery's life: done, a duplicate, again later, or parked; and whatever comes back is committed."""

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any
from uuid import UUID, uuid4

import pytest
from django.db import DatabaseError, IntegrityError, OperationalError

from choreography import delivery as module
from choreography import registry, world
from choreography.delivery import Delivery, Done, Duplicate, Later, Outcome, Parked, deliver, letter_key
from choreography.errors import Conflict, ContractError, NotYet, Outage, Transient
from choreography.models import table_of
from choreography.testing import FrozenWorld
from payments.gateway import GatewayDown
from payments.models import DeadLetter, Inbox, Outbox, Payment

pytestmark = pytest.mark.django_db(databases="__all__")

CLOUDEVENT = "application/cloudevents+json"
ORDER = UUID("019b76da-a800-7000-8000-000000000001")


@pytest.fixture(autouse=True)
def frozen() -> Iterator[FrozenWorld]:
    frozen = FrozenWorld()
    with world.replaced(frozen):
        yield frozen


def placed(**changes: Any) -> Delivery:
    """The delivery of an ``order_placed`` to payments."""
    envelope = {
        "specversion": "1.0",
        "id": "019b76da-a800-7000-8000-00000000000e",
        "type": "orders.order_placed.v1",
        "source": "orders",
        "subject": str(ORDER),
        "time": "2026-01-01T00:00:00Z",
        "correlationid": "flow",
        "data": {"payment_token": "tok_approved", "total": 2500, "currency": "EUR"},
    }
    return replace(Delivery("payments", json.dumps(envelope).encode(), CLOUDEVENT), **changes)


def meddle(monkeypatch: pytest.MonkeyPatch, **changes: Any) -> None:
    """Change ``payments.authorize_payment`` for one test."""
    name = "payments.authorize_payment"
    monkeypatch.setitem(registry._reactions, name, replace(registry._reactions[name], **changes))


def failing(error: BaseException) -> Callable[..., None]:
    def function(event: Any, answer: Any = None) -> None:
        Payment.objects.create(pk=event.subject)
        raise error

    return function


def nothing_was_stored() -> bool:
    return not (Payment.objects.exists() or Inbox.objects.exists() or Outbox.objects.exists())


def test_done_means_the_change_the_inbox_row_and_the_announcement_are_there() -> None:
    assert deliver(placed()) == Done()
    assert Payment.objects.get(pk=ORDER).authorized == 2500
    entry = Inbox.objects.get()
    assert (entry.reaction, entry.subject, entry.attempts) == ("payments.authorize_payment", ORDER, 1)
    row = Outbox.objects.get()
    event = json.loads(row.body)
    assert (row.event_type, row.caused_by) == ("payments.payment_authorized.v1", entry.event_id)
    assert (event["causationid"], event["correlationid"]) == (str(entry.event_id), "flow")


def test_a_second_delivery_is_a_duplicate_and_does_not_even_ask_the_provider(monkeypatch: pytest.MonkeyPatch) -> None:
    deliver(placed())
    meddle(monkeypatch, calls=lambda event: pytest.fail("asked again"))
    assert deliver(placed()) == Duplicate()
    assert Outbox.objects.count() == 1


def test_a_second_delivery_at_the_same_time_waits_and_then_is_a_duplicate(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only one of them may ask the provider."""
    copies: list[Outcome] = []
    calls = registry._reactions["payments.authorize_payment"].calls
    assert calls is not None

    def ask_while_a_copy_arrives(event: Any) -> Any:
        copies.append(deliver(placed()))
        return calls(event)

    meddle(monkeypatch, calls=ask_while_a_copy_arrives)
    assert deliver(placed()) == Done()
    assert [type(copy) for copy in copies] == [Later]
    assert deliver(placed()) == Duplicate()
    assert Outbox.objects.count() == Inbox.objects.count() == 1


@pytest.mark.parametrize(
    ("error", "outcome"),
    [
        (NotYet(), Later),
        (Outage(), Later),
        (Transient(), Later),
        (ZeroDivisionError(), Later),
        (OperationalError("server closed the connection unexpectedly"), Later),
        (IntegrityError("CHECK constraint failed: payments_no_more_authorized_than_asked"), Later),
        (ContractError("not declared"), Parked),
    ],
    ids=repr,
)
def test_a_failed_attempt_changes_nothing(
    monkeypatch: pytest.MonkeyPatch, error: Exception, outcome: type[Outcome]
) -> None:
    meddle(monkeypatch, function=failing(error))
    assert isinstance(deliver(placed()), outcome)
    assert nothing_was_stored()


def test_a_database_error_inside_the_reaction_is_no_duplicate(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only the inbox row's own refusal is."""

    def function(event: Any, answer: Any) -> None:
        Payment.objects.create(pk=event.subject, asked=1, authorized=2)

    meddle(monkeypatch, function=function)
    outcome = deliver(placed())
    assert isinstance(outcome, Later)
    assert isinstance(outcome.error, IntegrityError)


def test_a_worker_that_is_killed_leaves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    meddle(monkeypatch, function=failing(KeyboardInterrupt()))
    with pytest.raises(KeyboardInterrupt):
        deliver(placed())
    assert nothing_was_stored()


def test_a_conflict_starts_over_at_once_with_a_new_question(monkeypatch: pytest.MonkeyPatch) -> None:
    answers = iter(range(1, 100))

    def function(event: Any, answer: int) -> None:
        if answer < 5:
            raise Conflict

    meddle(monkeypatch, function=function, calls=lambda event: next(answers))
    assert deliver(placed()) == Done()
    assert next(answers) == 6


def test_a_conflict_that_lasts_is_tried_again_later(monkeypatch: pytest.MonkeyPatch) -> None:
    meddle(monkeypatch, function=failing(Conflict()))
    outcome = deliver(placed())
    assert isinstance(outcome, Later)
    assert outcome.again.headers[module.ATTEMPTS] == 1


def test_attempts_are_counted_over_deliveries(monkeypatch: pytest.MonkeyPatch) -> None:
    meddle(monkeypatch, function=failing(ZeroDivisionError()))
    delivery, outcomes = placed(), []
    for _ in range(3):
        outcome = deliver(delivery)
        outcomes.append(type(outcome))
        if isinstance(outcome, Later):
            delivery = replace(delivery, headers=outcome.again.headers)
    assert outcomes == [Later, Later, Parked]
    assert DeadLetter.objects.get().attempts == 3


def test_what_the_broker_gave_up_is_parked_with_its_reason() -> None:
    assert isinstance(deliver(placed(given_up="delivery_limit")), Parked)
    assert DeadLetter.objects.get().message == "the broker gave it up: delivery_limit"
    assert not Inbox.objects.exists()


def test_parking_twice_keeps_one_letter(monkeypatch: pytest.MonkeyPatch) -> None:
    for reason in ("rejected", "delivery_limit"):
        deliver(placed(given_up=reason))
    assert DeadLetter.objects.get().message == "the broker gave it up: delivery_limit"


def test_a_letter_sent_again_is_resolved_with_the_change() -> None:
    deliver(placed(given_up="rejected"))
    letter = DeadLetter.objects.get()
    assert letter.key == letter_key(placed())

    assert deliver(placed(headers={module.LETTER: letter.key})) == Done()

    letter.refresh_from_db()
    assert letter.state == letter.State.RESOLVED
    assert letter.resolved_at == world.now()


def test_a_letter_sent_again_that_fails_stays_open(monkeypatch: pytest.MonkeyPatch) -> None:
    deliver(placed(given_up="rejected"))
    letter = DeadLetter.objects.get()
    meddle(monkeypatch, function=failing(NotYet()))
    assert isinstance(deliver(placed(headers={module.LETTER: letter.key})), Later)
    letter.refresh_from_db()
    assert letter.resolved_at is None


def test_when_the_letter_cannot_be_written_the_message_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: Any) -> None:
        raise DatabaseError("no space left on device")

    monkeypatch.setattr(module, "_park", refuse)
    outcome = deliver(placed(given_up="rejected"))
    assert isinstance(outcome, Later)
    assert not DeadLetter.objects.exists()


def test_what_the_broker_gave_up_stays_given_up_over_the_ladder(monkeypatch: pytest.MonkeyPatch) -> None:
    """It comes back through the inbox, where nothing else tells it from a message that was never tried."""

    def refuse(*args: Any) -> None:
        raise OperationalError("gone")

    park = module._park
    monkeypatch.setattr(module, "_park", refuse)
    waits = deliver(placed(given_up="delivery_limit"))
    assert isinstance(waits, Later)
    assert waits.down == module.DATABASE
    monkeypatch.setattr(module, "_park", park)

    assert isinstance(deliver(placed(headers=waits.again.headers)), Parked)

    letter = DeadLetter.objects.get()
    assert letter.message == "the broker gave it up: delivery_limit"
    assert module.GIVEN_UP not in letter.headers, "sent again, it is a message like any other"


@pytest.mark.parametrize(
    ("error", "down"),
    [
        (OperationalError("gone"), module.DATABASE),
        (GatewayDown(), "payment gateway"),
        (Transient(), None),
        (NotYet(), None),
        (ZeroDivisionError(), None),
    ],
    ids=repr,
)
def test_an_outage_says_what_seems_to_be_down(
    monkeypatch: pytest.MonkeyPatch, error: Exception, down: str | None
) -> None:
    meddle(monkeypatch, function=failing(error))
    outcome = deliver(placed())
    assert isinstance(outcome, Later)
    assert outcome.down == down


def test_an_outage_where_no_host_is_named_suspects_none(monkeypatch: pytest.MonkeyPatch) -> None:
    meddle(monkeypatch, function=failing(Outage()), host=None)
    outcome = deliver(placed())
    assert isinstance(outcome, Later)
    assert outcome.down is None


def test_each_service_has_letters_of_its_own() -> None:
    for service in ("orders", "payments", "shipping"):
        assert isinstance(deliver(Delivery(service, b"rubbish", CLOUDEVENT)), Parked)
        assert table_of(service, "DeadLetter").objects.count() == 1


def test_the_error_of_an_unusable_message_names_the_field_and_never_its_value() -> None:
    secret = "4242424242424242"
    body = placed().body.replace(b'"total": 2500', f'"total": "{secret}"'.encode())
    deliver(placed(body=body))
    letter = DeadLetter.objects.get()
    assert "data.total" in letter.message
    assert secret not in letter.message + letter.traceback


def test_the_inbox_remembers_which_attempt_worked() -> None:
    headers = {module.ATTEMPTS: 4, module.WAITS: 9, module.FIRST_SEEN: world.now().isoformat()}
    deliver(placed(headers=headers))
    assert Inbox.objects.get().attempts == 5


@pytest.mark.parametrize("deaths", [None, [], [{}], "odd", [3]], ids=repr)
def test_a_death_without_a_note_has_an_unknown_reason(deaths: object) -> None:
    assert module.reason_of_death({"x-death": deaths}) == module.reason_of_death({}) == "unknown"
    assert module.reason_of_death({"x-death": [{"reason": "rejected"}]}) == "rejected"


def test_a_subject_nobody_knows_makes_no_row_elsewhere() -> None:
    unknown = str(uuid4()).encode()
    outcome = deliver(placed(service="orders", body=placed().body.replace(str(ORDER).encode(), unknown)))
    assert isinstance(outcome, Parked)
    assert not Payment.objects.exists()
