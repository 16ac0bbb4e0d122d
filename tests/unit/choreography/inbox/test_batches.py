"""A batch: one transaction for all its deliveries, and none suffers from what happens to another."""

import json
import re
import threading
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any
from uuid import UUID

import pytest
import structlog.testing
from django.db import IntegrityError, OperationalError, connections
from django.test.utils import CaptureQueriesContext

from choreography.core.conf import conf
from choreography.core.errors import Conflict, ContractError, NotYet, Outage, Transient
from choreography.events.messages import Event
from choreography.events.registry import reaction_to
from choreography.inbox.deliveries import (
    ATTEMPTS,
    DATABASE,
    DEAD_LETTER,
    WAITS,
    Delivery,
    Done,
    Duplicate,
    Outcome,
    Parked,
    RetryLater,
    Unhandled,
)
from choreography.inbox.handler import handle, handle_one
from choreography.outbox.announcing import announce
from choreography.storage.claims import claimed
from choreography.storage.tables import ServiceTables
from choreography.testing import FrozenClock, override
from payments.events import PaymentDeclined
from payments.gateway import GatewayDown, GatewayError
from payments.models import DeadLetter, Inbox, Outbox, Payment
from tests.unit.choreography.authorizing import AUTHORIZE, calling, failing, nothing_was_stored, placed

Change = Callable[..., None]

pytestmark = [pytest.mark.django_db(databases="__all__"), pytest.mark.usefixtures("frozen")]


def orders(number: int, **data: Any) -> list[Delivery]:
    """Deliveries of ``order_placed`` to payments, each of another order, the last order first."""
    return [order(count, **data) for count in reversed(range(number))]


def order(number: int, event: int | None = None, **data: Any) -> Delivery:
    """The delivery of ``order_placed`` of one order. ``event``: its id, if it is not that of the order."""
    envelope = json.loads(placed().body)
    envelope["id"] = str(event_id(number if event is None else event))
    envelope["subject"] = str(subject(number))
    envelope["data"] |= data
    return placed(body=json.dumps(envelope).encode())


def event_id(number: int) -> UUID:
    return UUID(int=1000 + number)


def subject(number: int) -> UUID:
    return UUID(int=number)


def number_of(event: Any) -> int:
    return UUID(event.subject).int


def raising_for(number: int, error: BaseException) -> Callable[[Any], None]:
    """Raises the error for one order."""

    def check(event: Any) -> None:
        if number_of(event) == number:
            raise error

    return check


def without_rows(change: Change, function: Callable[[Any], None]) -> None:
    """Make the reaction one that takes the event alone and calls no external system."""

    def react(event: Any) -> None:
        Payment.objects.create(pk=event.subject)
        announce(PaymentDeclined(reason="test"), subject=event.subject)
        function(event)

    change(function=react, rows=None, ask=None)


def with_rows(change: Change, function: Callable[[Any], None]) -> None:
    """Have the reaction call this as well, in the transaction, when it has done its work."""
    reaction = reaction_to("payments", "orders.order_placed.v2")
    assert reaction is not None
    react = reaction.function

    def react_and_check(payment: Payment, event: Any, answer: Any) -> None:
        react(payment, event, answer)
        function(event)

    change(function=react_and_check)


def handled() -> set[int]:
    """The orders whose events are in the inbox, each with one entry, one payment and one announcement."""
    found = sorted(UUID(entry.subject).int for entry in Inbox.objects.all())
    assert found == sorted(UUID(row.subject).int for row in Outbox.objects.all())
    assert found == sorted(payment.pk.int for payment in Payment.objects.all())
    assert len(found) == len(set(found))
    return set(found)


@pytest.mark.parametrize("kind", [with_rows, without_rows])
def test_those_that_waited_together_take_effect_each_with_its_own_cause(
    change: Change, kind: Callable[..., None]
) -> None:
    seen: list[int] = []
    kind(change, lambda event: seen.append(number_of(event)))

    assert handle(orders(4)) == [Done()] * 4

    assert seen == [0, 1, 2, 3], "sorted, so that two batches lock rows in the same order"
    assert handled() == {0, 1, 2, 3}
    assert all(row.caused_by == event_id(UUID(row.subject).int) for row in Outbox.objects.all())
    assert {entry.attempts for entry in Inbox.objects.all()} == {1}


@pytest.mark.django_db(databases="__all__", transaction=True)
@pytest.mark.parametrize("number", [2, 50])
def test_many_take_as_many_statements_as_few_and_one_commit(number: int) -> None:
    """The claims and the question before the transaction, and what is in it, however many events there are."""
    with CaptureQueriesContext(connections["payments"]) as asked:
        assert handle(orders(number)) == [Done()] * number

    statements = [re.sub(r"^(\w+)[^\"]*(?:\"(\w+)\")?.*", r"\1 \2", query["sql"]).strip() for query in asked]
    assert [it for it in statements if it.startswith("INSERT")] == [
        "INSERT payments_claim",
        "INSERT payments_inbox",
        "INSERT payments_payment",
        "INSERT payments_entry",
        "INSERT payments_outbox",
    ]
    assert statements.count("BEGIN") == statements.count("COMMIT") == 1
    assert len(statements) == 12
    assert handled() == set(range(number))


def test_a_reaction_without_rows_shares_the_inbox_and_the_outbox(change: Change) -> None:
    without_rows(change, lambda event: None)
    with CaptureQueriesContext(connections["payments"]) as asked:
        assert handle(orders(20)) == [Done()] * 20
    inserted = [query["sql"].split()[2].strip('"') for query in asked if query["sql"].startswith("INSERT")]
    assert inserted == ["payments_inbox", *["payments_payment"] * 20, "payments_outbox"]
    assert sum("RELEASE SAVEPOINT" in query["sql"] for query in asked) == 1  # the test's own transaction is around


def test_those_that_took_effect_before_are_duplicates_and_no_call_is_made_for_them(
    change: Change,
) -> None:
    waiting = orders(4)
    handle_one(waiting[1])
    asked: list[int] = []
    change(ask=calling(lambda event: asked.append(number_of(event))))

    assert handle(waiting) == [Done(), Duplicate(), Done(), Done()]

    assert asked == [0, 1, 3]
    assert handled() == {0, 1, 2, 3}
    assert handle(waiting) == [Duplicate()] * 4
    assert handled() == {0, 1, 2, 3}


def test_the_only_one_that_is_asked_for_fails_alone(change: Change) -> None:
    waiting = orders(3)
    handle(waiting[:2])
    change(ask=calling(lambda event: _raise(GatewayError("no"))))

    outcomes = handle(waiting)

    assert [type(outcome) for outcome in outcomes] == [Duplicate, Duplicate, RetryLater]


def test_those_that_took_effect_before_are_duplicates_where_no_call_is_made(change: Change) -> None:
    without_rows(change, lambda event: None)
    waiting = orders(3)
    handle_one(waiting[2])
    assert handle(waiting) == [Done(), Done(), Duplicate()]
    assert handled() == {0, 1, 2}


@pytest.mark.parametrize("kind", [with_rows, without_rows])
@pytest.mark.parametrize(
    ("which", "outcome"),
    [((1, 1), Duplicate), ((1, 7), RetryLater), ((2, 1), Duplicate)],
    ids=["a copy", "another event of the subject", "another event of the same id"],
)
def test_of_two_that_must_not_meet_the_second_is_unhandled(
    change: Change, kind: Callable[..., None], which: tuple[int, int], outcome: type[Outcome]
) -> None:
    kind(change, lambda event: None)
    second = order(*which)
    waiting = [order(1), second, order(3)]

    assert handle(waiting) == [Done(), Unhandled(alone=True), Done()]

    assert handled() == {1, 3}
    assert isinstance(handle_one(second), outcome)


def test_what_is_unusable_is_parked_and_the_others_take_effect() -> None:
    waiting = [order(1), order(2, total="a lot"), placed(body=b"rubbish"), order(4), replace(order(5), given_up="x")]

    assert [type(outcome) for outcome in handle(waiting)] == [Done, Parked, Parked, Done, Parked]

    assert {dead_letter.attempts for dead_letter in DeadLetter.objects.all()} == {1}
    assert {dead_letter.reaction for dead_letter in DeadLetter.objects.all()} == {AUTHORIZE, ""}
    assert handled() == {1, 4}


def test_many_unusable_messages_are_parked_with_few_statements() -> None:
    rubbish = [placed(body=f"rubbish {number}".encode()) for number in range(50)]
    with CaptureQueriesContext(connections["payments"]) as asked:
        outcomes = handle([*rubbish, rubbish[0]])
    assert [type(outcome) for outcome in outcomes] == [Parked] * 50 + [Unhandled]
    assert DeadLetter.objects.count() == 50
    assert len(asked) < 10
    assert isinstance(handle_one(rubbish[0]), Parked)
    assert DeadLetter.objects.count() == 50


def test_many_that_wait_for_another_event_are_recorded_with_few_statements(change: Change) -> None:
    change(ask=calling(lambda event: _raise(NotYet())))
    with CaptureQueriesContext(connections["payments"]) as asked:
        outcomes = handle(orders(50))
    assert [type(outcome) for outcome in outcomes] == [RetryLater] * 50
    assert ServiceTables("payments").retries.count() == 50
    assert len(asked) < 10


FAULTS = [NotYet(), Transient(), GatewayError(), ZeroDivisionError(), Conflict(), IntegrityError("a constraint")]


@pytest.mark.parametrize("error", FAULTS, ids=repr)
def test_one_whose_call_fails_is_judged_by_itself_and_the_others_are_done(change: Change, error: Exception) -> None:
    change(ask=calling(raising_for(2, error)))
    waiting = orders(5)

    first, second, failed, *others = handle(waiting)

    assert [first, second, *others] == [Done()] * 4
    assert handled() == {0, 1, 3, 4}
    if isinstance(error, Conflict):
        assert failed == Unhandled(alone=True), "what it was based on has changed: it is run again at once"
    else:
        assert isinstance(failed, RetryLater)
        assert failed.again.headers[ATTEMPTS] == (0 if isinstance(error, NotYet) else 1), "one for each call"
    assert ServiceTables("payments").retries.count() == (0 if isinstance(error, Conflict) else 1)


@pytest.mark.parametrize("kind", [with_rows, without_rows])
@pytest.mark.parametrize("error", [*FAULTS, Outage()], ids=repr)
def test_when_one_fails_in_the_transaction_nothing_is_changed_and_only_it_counts(
    change: Change, kind: Callable[..., None], error: Exception
) -> None:
    kind(change, raising_for(2, error))
    waiting = orders(5)

    assert handle(waiting) == [Unhandled(alone=True)] * 5

    assert nothing_was_stored()
    assert not ServiceTables("payments").retries.exists()
    assert attempts_of(waiting[2]) == (0 if isinstance(error, NotYet | Outage) else 1)
    others = [each for each in waiting if each is not waiting[2]]
    assert [handle([each]) for each in others] == [[Done()]] * 4
    assert handled() == {0, 1, 3, 4}
    assert {entry.attempts for entry in Inbox.objects.all()} == {1}


def attempts_of(delivery: Delivery) -> int:
    """The attempts that have counted, as the ladder is told, when it has failed once on its own."""
    (outcome,) = handle([delivery])
    assert isinstance(outcome, RetryLater)
    return int(outcome.again.headers[ATTEMPTS])


def test_what_is_undeclared_in_a_batch_is_parked_on_its_own(change: Change) -> None:
    with_rows(change, raising_for(1, ContractError("not declared")))
    waiting = orders(2)
    assert handle(waiting) == [Unhandled(alone=True)] * 2
    assert [type(handle_one(each)) for each in waiting] == [Parked, Done]


def test_when_the_external_system_is_down_it_is_not_called_for_the_others(change: Change) -> None:
    asked: list[int] = []

    def ask(event: Any) -> None:
        asked.append(number_of(event))
        raising_for(2, GatewayDown())(event)

    change(ask=calling(ask))

    outcomes = handle(orders(5))

    assert asked == [0, 1, 2]
    assert outcomes == [Unhandled(alone=False), Unhandled(alone=False), Unhandled(alone=True), Done(), Done()]
    assert handled() == {0, 1}
    (outcome,) = handle([order(2)])
    assert isinstance(outcome, RetryLater)
    assert outcome.down == "payment gateway"


def test_when_calls_take_long_what_has_its_answer_takes_effect_and_the_rest_follows_later(
    change: Change, frozen: FrozenClock
) -> None:
    change(ask=calling(lambda event: frozen.advance(conf().call_budget.total_seconds() / 3)))
    waiting = orders(5)

    assert handle(waiting) == [Unhandled(alone=False)] * 2 + [Done()] * 3
    assert handled() == {0, 1, 2}

    assert handle(waiting[:2]) == [Done()] * 2
    assert handled() == {0, 1, 2, 3, 4}


def test_no_delivery_waits_for_a_slow_call_of_another(change: Change) -> None:
    waiting, others_took_effect = orders(4), threading.Event()
    took_effect: list[int] = []

    def when_committed(deliveries: Sequence[Delivery]) -> None:
        took_effect.extend(number_of(delivery.event) for delivery in deliveries)
        if len(took_effect) == 3:
            others_took_effect.set()

    change(ask=calling(lambda event: number_of(event) == 1 and others_took_effect.wait(30)))
    for delivery in waiting:
        delivery.when_committed = when_committed

    assert handle(waiting, calls_at_once=4) == [Done()] * 4

    assert sorted(took_effect[:3]) == [0, 2, 3]
    assert handled() == {0, 1, 2, 3}
    assert not ServiceTables("payments").claims.exists()


def test_no_more_calls_are_made_at_once_than_allowed(change: Change) -> None:
    counter, lock, at_once = [0], threading.Lock(), []
    both_call = threading.Barrier(2)

    def ask(event: Event[Any]) -> None:
        with lock:
            counter[0] += 1
            at_once.append(counter[0])
        both_call.wait(30)
        with lock:
            counter[0] -= 1

    change(ask=calling(ask))
    assert handle(orders(6), calls_at_once=2) == [Done()] * 6
    assert max(at_once) == 2


def test_a_reaction_that_fails_for_one_answer_keeps_what_was_committed_before(change: Change) -> None:
    waiting, first_took_effect = orders(3), threading.Event()
    waiting[-1].when_committed = lambda _: first_took_effect.set()  # that of order 0
    react = reaction_to("payments", "orders.order_placed.v2")
    assert react is not None

    def fail_for_the_last(payment: Any, event: Event[Any], answer: Any) -> None:
        if number_of(event) == 2:
            raise ValueError
        react.function(payment, event, answer)

    change(ask=calling(lambda event: number_of(event) > 0 and first_took_effect.wait(30)), function=fail_for_the_last)

    outcomes = handle(waiting, calls_at_once=3)

    assert outcomes[-1] == Done()
    assert outcomes[0] == Unhandled(alone=True), "that of order 2"
    assert 0 in handled()
    assert 2 not in handled()


def test_at_least_one_call_is_made_however_long_it_takes(change: Change, frozen: FrozenClock) -> None:
    change(ask=calling(lambda event: frozen.advance(3600)))
    assert handle(orders(3)) == [Unhandled(alone=False), Unhandled(alone=False), Done()]


@pytest.mark.parametrize("kind", [with_rows, without_rows])
def test_when_the_database_is_down_all_wait_on_the_ladder_and_none_has_used_an_attempt(
    change: Change, kind: Callable[..., None]
) -> None:
    kind(change, raising_for(1, OperationalError("server closed the connection unexpectedly")))
    waiting = [order(0), order(1), placed(body=b"rubbish"), order(3)]

    first, second, rubbish, last = handle(waiting)

    assert isinstance(rubbish, Parked)
    for outcome, delivery in zip((first, second, last), (waiting[0], waiting[1], waiting[3]), strict=True):
        assert isinstance(outcome, RetryLater)
        assert outcome.down == DATABASE
        assert outcome.again.body == delivery.body
        assert (outcome.again.headers[ATTEMPTS], outcome.again.headers[WAITS]) == (0, 1)
    assert nothing_was_stored()


def test_one_whose_copy_is_being_handled_is_unhandled_and_the_others_are_done() -> None:
    waiting = orders(3)
    with claimed("payments", "payments.authorize_payment", [event_id(1)]):
        assert handle(waiting) == [Done(), Unhandled(alone=True), Done()]
        assert isinstance(handle_one(waiting[1]), RetryLater)
    assert handled() == {0, 2}
    assert handle_one(waiting[1]) == Done()


def test_a_worker_that_is_killed_in_a_batch_leaves_nothing() -> None:
    die = override(AUTHORIZE, function=failing(KeyboardInterrupt()))
    with die, pytest.raises(KeyboardInterrupt):
        handle(orders(4))
    assert nothing_was_stored()
    assert handle(orders(4)) == [Done()] * 4


def test_the_record_of_a_retry_is_deleted_when_it_took_effect_in_a_batch() -> None:
    with override(AUTHORIZE, ask=calling(lambda event: _raise(NotYet()))):
        waiting = [_again(each) for each in orders(3)]
    retries = ServiceTables("payments").retries
    assert retries.count() == 3

    assert handle([*waiting[:2], order(7)]) == [Done()] * 3
    assert [retry.key for retry in retries.all()] == [waiting[2].key]
    assert handle([waiting[0], waiting[2]]) == [Duplicate(), Done()]
    assert not retries.exists()


def test_dead_letters_sent_again_are_resolved_in_a_batch() -> None:
    waiting = orders(3)
    for each in waiting[:2]:
        handle_one(replace(each, given_up="rejected"))
    again = [replace(each, headers={DEAD_LETTER: each.key}) for each in waiting]

    assert handle(again) == [Done()] * 3

    assert {dead_letter.state for dead_letter in DeadLetter.objects.all()} == {DeadLetter.State.RESOLVED}
    assert DeadLetter.objects.count() == 2


def _again(delivery: Delivery) -> Delivery:
    """The delivery as it comes back from the ladder, having failed once."""
    outcome = handle_one(delivery)
    assert isinstance(outcome, RetryLater)
    return replace(delivery, headers=outcome.again.headers)


def _raise(error: Exception) -> None:
    raise error


def test_each_of_a_batch_has_a_line_of_its_own_in_the_log() -> None:
    waiting = orders(3)
    handle_one(waiting[0])
    with structlog.testing.capture_logs() as logs:
        handle([*waiting, order(2, event=9)])
    told = [(line["event"], line["event_id"], line["reaction"]) for line in logs if line["log_level"] == "info"]
    name = "payments.authorize_payment"
    assert told == [
        ("reaction done", str(event_id(0)), name),
        ("reaction done", str(event_id(1)), name),
        ("duplicate ignored", str(event_id(2)), name),
    ]


def test_a_batch_that_is_rolled_back_says_so_once(change: Change) -> None:
    with_rows(change, raising_for(1, ZeroDivisionError()))
    with structlog.testing.capture_logs() as logs:
        handle(orders(3))
    (line,) = [line for line in logs if line["log_level"] != "debug"]
    assert (line["event"], line["events"], line["error"]) == ("handled one by one", 3, "ZeroDivisionError")
