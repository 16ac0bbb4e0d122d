"""A delivery that may have ended its worker's process is begun a few times, and then given up."""

from dataclasses import replace
from typing import Any

import pytest
from django.db import InterfaceError, OperationalError

from choreography.broker.publisher import Outgoing
from choreography.core.errors import NotYet, Transient
from choreography.inbox import suspects
from choreography.inbox.deliveries import (
    CAME_BACK,
    ENDED_PROCESSES,
    SUSPICIOUS,
    Delivery,
    Done,
    Outcome,
    Parked,
    RetryLater,
    Unhandled,
)
from choreography.inbox.handler import handle_one
from choreography.storage.tables import ServiceTables
from choreography.worker.requests import PartlyHandled
from choreography.worker.tasks import DeliveryTask
from payments.models import DeadLetter
from tests.unit.choreography.authorizing import failing, placed

pytestmark = pytest.mark.django_db(databases="__all__")


def suspect(**changes: Any) -> Delivery:
    return placed(headers={"x-delivery-count": SUSPICIOUS}, exclusive=True, **changes)


def end(*outcomes: tuple[Delivery, Outcome | Unhandled]) -> None:
    suspects.end({delivery.key: outcome for delivery, outcome in outcomes}, "payments")


def begun() -> list[int]:
    return [note.begun for note in ServiceTables("payments").suspects.all()]


def test_what_was_begun_three_times_and_never_ended_is_parked() -> None:
    for _ in range(suspects.ATTEMPTS):
        delivery = suspect()
        suspects.begin([delivery])
        assert delivery.given_up is None
    last = suspect()
    suspects.begin([last])
    outcome = handle_one(last)
    end((last, outcome))

    assert isinstance(outcome, Parked)
    assert DeadLetter.objects.get().message == ENDED_PROCESSES
    assert begun() == []


def test_what_ended_is_suspected_no_more() -> None:
    for _ in range(suspects.ATTEMPTS + 2):
        delivery = suspect()
        suspects.begin([delivery])
        assert delivery.given_up is None
        end((delivery, Done()))
        assert begun() == []


@pytest.mark.parametrize(("error", "left"), [(NotYet(), [1]), (Transient(), [])], ids=repr)
def test_what_only_waited_was_not_begun(change: Any, error: Exception, left: list[int]) -> None:
    change(function=failing(error))
    suspects.begin([suspect()])
    delivery = suspect()
    suspects.begin([delivery])

    end((delivery, handle_one(delivery)))

    assert begun() == left


def test_several_are_begun_together_and_one_that_did_not_end_is_handled_alone() -> None:
    first, second, third = (suspect(body=b"%d" % number) for number in (1, 2, 3))
    assert suspects.begin([first, second]) == [first, second]
    assert begun() == [1, 1]

    assert suspects.begin([first, second, third]) == [third], "the process of the others ended"
    end((third, Done()))
    assert begun() == [1, 1]

    assert suspects.begin([first]) == [first]
    end((first, Done()))
    assert begun() == [1]


def test_those_that_only_wait_may_be_begun_with_others_again() -> None:
    waits, done = (suspect(body=b"%d" % number) for number in (1, 2))
    suspects.begin([waits, done])
    end((waits, RetryLater(Outgoing(b"", ""), 1.0, NotYet())), (done, Done()))
    assert begun() == []


def test_a_copy_of_a_suspect_is_handled_alone() -> None:
    one, copy = suspect(), suspect()
    assert one.key == copy.key
    assert suspects.begin([one, copy]) == [copy]


def test_it_stays_suspect_on_the_ladder(change: Any) -> None:
    change(function=failing(Transient()))
    outcome = handle_one(suspect())
    assert isinstance(outcome, RetryLater)
    assert outcome.again.headers[CAME_BACK] == SUSPICIOUS
    assert placed(headers=dict(outcome.again.headers)).is_suspect
    of_a_pool = handle_one(replace(placed(), exclusive=True))
    assert isinstance(of_a_pool, RetryLater)
    assert of_a_pool.again.headers[CAME_BACK] == SUSPICIOUS, "its child died: the broker has counted nothing"


@pytest.mark.parametrize("error", [OperationalError("gone"), InterfaceError("closed")], ids=repr)
def test_a_database_that_is_away_does_not_stop_it(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    def refuse(*args: Any, **kwargs: Any) -> Any:
        raise error

    delivery = suspect()
    with monkeypatch.context() as patched:
        patched.setattr("django.db.backends.utils.CursorWrapper.execute", refuse)
        suspects.begin([delivery])
        end((delivery, Done()))
    assert delivery.given_up is None


@pytest.mark.django_db(databases="__all__", transaction=True)  # a task may open its connections anew
def test_the_task_hands_back_what_was_begun_before_to_be_handled_alone() -> None:
    begun_before, new = suspect(), suspect(body=b"unreadable")
    suspects.begin([begun_before])

    with pytest.raises(PartlyHandled) as raised:
        DeliveryTask("payments.authorize_payment").run([begun_before, new])

    assert (raised.value.again, raised.value.alone) == ([0], [0])
    assert begun() == [1], "the other has ended"
