"""A delivery that may have ended its worker's process is begun a few times, and then given up."""

from dataclasses import replace
from typing import Any

import pytest
from django.db import InterfaceError, OperationalError

from choreography.core.errors import NotYet, Transient
from choreography.inbox import suspects
from choreography.inbox.deliveries import CAME_BACK, ENDED_PROCESSES, SUSPICIOUS, Delivery, Done, Parked, RetryLater
from choreography.inbox.handler import handle_one
from choreography.storage.tables import ServiceTables
from payments.models import DeadLetter
from tests.unit.choreography.authorizing import failing, placed

pytestmark = pytest.mark.django_db(databases="__all__")


def suspect() -> Delivery:
    return placed(headers={"x-delivery-count": SUSPICIOUS}, exclusive=True, alone=True)


def begun() -> list[int]:
    return [note.begun for note in ServiceTables("payments").suspects.all()]


def test_what_was_begun_three_times_and_never_ended_is_parked() -> None:
    for _ in range(suspects.ATTEMPTS):
        delivery = suspect()
        suspects.begin(delivery)
        assert delivery.given_up is None
    last = suspect()
    suspects.begin(last)
    outcome = handle_one(last)
    suspects.end(last, outcome)

    assert isinstance(outcome, Parked)
    assert DeadLetter.objects.get().message == ENDED_PROCESSES
    assert begun() == []


def test_what_ended_is_suspected_no_more() -> None:
    for _ in range(suspects.ATTEMPTS + 2):
        delivery = suspect()
        suspects.begin(delivery)
        assert delivery.given_up is None
        suspects.end(delivery, Done())
        assert begun() == []


@pytest.mark.parametrize(("error", "left"), [(NotYet(), [1]), (Transient(), [])], ids=repr)
def test_what_only_waited_was_not_begun(change: Any, error: Exception, left: list[int]) -> None:
    change(function=failing(error))
    suspects.begin(suspect())
    delivery = suspect()
    suspects.begin(delivery)

    suspects.end(delivery, handle_one(delivery))

    assert begun() == left


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
        suspects.begin(delivery)
        suspects.end(delivery, Done())
    assert delivery.given_up is None
