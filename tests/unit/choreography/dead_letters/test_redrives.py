"""A group is sent again in growing steps, at a set rate, until all is done or the first dead letter fails again."""

from collections import Counter
from contextlib import closing
from datetime import timedelta
from typing import Any

import pytest
from pytest_django.fixtures import Settings

from choreography.broker.embedded.store import Stored
from choreography.broker.publisher import Outgoing
from choreography.core import clock
from choreography.core.errors import Outage
from choreography.dead_letters import redrives
from choreography.dead_letters.actions import OUTCOME_WITHIN, By, groups, resolve_what_took_effect, send_again
from choreography.storage.models import Redrive
from choreography.storage.tables import ServiceTables
from tests.shop_in_a_box import Shop
from tests.unit.choreography.parked import dead_letters, history, mend, park, states

pytestmark = pytest.mark.django_db(databases="__all__")

BY = By("ada", "mended")


def begin(rate: float = redrives.HIGHEST_RATE) -> Redrive:
    """The redrive of the group of the first dead letter."""
    return redrives.start("orders", dead_letters()[0].fingerprint, BY, rate)


def sent() -> int:
    return states().count("retrying")


def to_the_end(shop: Shop, started: Redrive) -> Redrive:
    """Everything sent is handled, a second passes, it advances; bounded."""
    for _ in range(1000):
        started = redrives.advance(started, shop)
        if started.state != Redrive.State.RUNNING:
            return started
        shop.drain()
        shop.time.advance(1)
    raise AssertionError("it does not end")


def test_steps_grow_and_each_waits_for_the_one_before(shop: Shop) -> None:
    mend(*park(shop, 120))
    started = begin()
    steps = []

    for _ in range(6):
        started = redrives.advance(started, shop)
        steps.append(sent())
        redrives.advance(started, shop)
        assert sent() == steps[-1]  # not before the step has its outcomes
        shop.drain()
        shop.time.advance(10)

    assert steps == [1, 5, 50, 50, 14, 0]
    assert redrives.advance(started, shop).state == "done"
    assert set(states()) == {"resolved"}
    assert Counter(history()) == {("retry", "resolved"): 120}


def test_the_first_that_fails_again_stops_it_and_says_which_and_why(shop: Shop) -> None:
    first, second, third, *rest = park(shop, 20)
    mend(first, second, *rest)

    ended = to_the_end(shop, begin())

    assert ended.state == "stopped"
    assert ended.note == f"Dead letter {third.pk} was parked again: UnknownOrder {third.location}"
    assert states() == ["resolved", "resolved", "parked", "resolved", "resolved", "resolved", *["parked"] * 14]


def test_with_nothing_mended_only_one_is_sent(shop: Shop) -> None:
    park(shop, 20)

    assert to_the_end(shop, begin()).state == "stopped"

    assert len(history()) == 1


@pytest.mark.parametrize(("rate", "seconds"), [(10.0, 6), (2.0, 30), (0.5, 120)])
def test_no_more_are_sent_than_the_rate_allows(shop: Shop, rate: float, seconds: int) -> None:
    mend(*park(shop, 60))
    begun = clock.now()

    assert to_the_end(shop, begin(rate)).state == "done"

    needed = (clock.now() - begun).total_seconds()
    assert seconds - 5 <= needed <= seconds + 10


def test_what_is_parked_while_it_runs_is_left_alone(shop: Shop) -> None:
    mend(*park(shop, 2))
    started = begin()
    shop.time.advance(1)
    park(shop, 1)

    assert to_the_end(shop, started).state == "done"

    assert states() == ["resolved", "resolved", "parked"]


def test_other_groups_are_left_alone(shop: Shop) -> None:
    mend(*park(shop, 2))
    shop.send("orders", b"rubbish")
    shop.drain()

    assert to_the_end(shop, begin()).state == "done"

    assert states() == ["resolved", "resolved", "parked"]


def test_one_group_can_not_be_sent_twice_at_once(shop: Shop) -> None:
    park(shop, 2)
    started = begin()

    with pytest.raises(redrives.CannotStart, match="already"):
        begin()

    redrives.stop(started, BY)
    begin()


@pytest.mark.parametrize("rate", [0.0, -1.0, 101.0, float("nan"), float("inf")])
def test_a_rate_that_makes_no_sense_is_refused(shop: Shop, rate: float) -> None:
    park(shop)
    with pytest.raises(redrives.CannotStart, match="rate must be"):
        begin(rate)


def test_a_group_with_nothing_parked_is_refused(shop: Shop) -> None:
    with pytest.raises(redrives.CannotStart, match="No dead letter of 0123 is parked"):
        redrives.start("orders", "0123", BY)


def test_after_a_stop_what_was_sent_still_takes_effect(shop: Shop) -> None:
    mend(*park(shop, 6))
    started = redrives.advance(begin(), shop)

    stopped = redrives.stop(started, By("bob", "wait for the fix"))
    shop.drain()
    redrives.advance(started, shop)

    assert (stopped.state, stopped.note) == ("stopped", "Stopped by bob. wait for the fix")
    assert Counter(states()) == {"resolved": 1, "parked": 5}


def test_a_dead_letter_without_an_outcome_stops_it_and_can_be_sent_again(shop: Shop) -> None:
    """Somebody has purged the queue."""
    mend(*park(shop, 3))
    started = redrives.advance(begin(), shop)
    while message := shop.take("orders"):
        shop.broker.ack(message.tag)

    shop.time.advance(OUTCOME_WITHIN.total_seconds() - 1)
    assert redrives.advance(started, shop).state == "running"
    shop.time.advance(1)
    stopped = redrives.advance(started, shop)

    assert (stopped.state, stopped.note) == (
        "stopped",
        f"Dead letter {dead_letters()[0].pk} has had no outcome for 15 minutes.",
    )
    assert groups("orders")[0].overdue == 1
    assert to_the_end(shop, begin()).state == "done"
    assert history()[0] == ("retry", "superseded")


def test_when_the_broker_does_not_take_them_nothing_has_changed(shop: Shop) -> None:
    class Down(Shop):
        def publish(self, messages: Any) -> None:
            raise Outage("down")

    park(shop, 3)
    started = begin()

    with closing(Down(shop.time)) as down, pytest.raises(Outage):
        redrives.advance(started, down)

    assert set(states()) == {"parked"}
    assert history() == []
    started.refresh_from_db()
    assert (started.state, started.step) == ("running", 0)


def test_a_crash_after_publishing_and_before_the_commit_does_no_harm(shop: Shop) -> None:
    class Crash(BaseException):
        pass

    class Dying(Shop):
        def publish(self, messages: Any) -> None:
            shop.publish(messages)
            raise Crash

    mend(*park(shop, 7))
    started = begin()
    with closing(Dying(shop.time)) as dying, pytest.raises(Crash):
        redrives.advance(started, dying)

    assert to_the_end(shop, started).state == "done"

    assert set(states()) == {"resolved"}
    assert ServiceTables("orders").inbox.count() == 7


def test_pressing_many_times_takes_effect_once(shop: Shop) -> None:
    mend(*park(shop, 7))
    started = begin()
    for _ in range(5):
        redrives.advance(started, shop)
    for dead_letter in dead_letters():
        if dead_letter.state == "parked":
            send_again(dead_letter, shop, BY)  # a person is faster

    assert to_the_end(shop, started).state == "done"

    assert set(states()) == {"resolved"}
    assert ServiceTables("orders").inbox.count() == 7


def test_the_history_says_who_and_why_and_in_which_redrive(shop: Shop) -> None:
    mend(*park(shop))
    started = begin()
    to_the_end(shop, started)

    (line,) = dead_letters()[0].actions.all()
    assert (line.who, line.why, line.redrive_id, line.step) == ("ada", "mended", started.pk, 0)


def test_progress_counts_dead_letters(shop: Shop) -> None:
    mend(*park(shop, 10))
    started = redrives.advance(begin(), shop)
    shop.drain()
    shop.time.advance(1)
    redrives.advance(started, shop)

    assert redrives.progress(started) == redrives.Progress(sent=6, resolved=1, pending=5, left=4)


@pytest.fixture
def on_the_broker(shop: Shop, settings: Settings) -> Shop:
    """The shop's services hear from the configured broker: an embedded one."""
    settings.DATA_DIR.mkdir(parents=True, exist_ok=True)
    settings.CHOREOGRAPHY = settings.CHOREOGRAPHY | {"BROKER_URL": f"embedded://{settings.DATA_DIR}/broker.sqlite3"}
    return shop


def test_the_timer_of_each_service_advances_it(on_the_broker: Shop) -> None:
    mend(*park(on_the_broker, 3))
    begin()

    redrives.advance_all("orders")

    assert states() == ["retrying", "parked", "parked"]


def test_with_the_broker_down_the_timer_waits(shop: Shop, settings: Settings) -> None:
    settings.CHOREOGRAPHY = settings.CHOREOGRAPHY | {"BROKER_URL": "amqp://guest:guest@127.0.0.1:1//"}
    park(shop)
    started = begin()

    redrives.advance_all("orders")

    started.refresh_from_db()
    assert started.state == "running"


def test_without_redrives_the_timer_does_not_touch_the_broker(shop: Shop, settings: Settings) -> None:
    settings.CHOREOGRAPHY = settings.CHOREOGRAPHY | {"BROKER_URL": "nonsense"}
    park(shop)

    for service in shop.services:
        redrives.advance_all(service)


def test_a_dead_letter_whose_event_took_effect_by_another_copy_is_resolved(shop: Shop) -> None:
    one, _ = park(shop, 2)
    mend(one)
    shop.send("orders", bytes(one.body))
    shop.drain()
    assert states() == ["parked", "parked"]

    assert resolve_what_took_effect("orders") == 1
    assert resolve_what_took_effect("orders") == 0

    assert states() == ["resolved", "parked"]


def test_rubbish_that_claims_the_id_of_a_heard_event_is_not_resolved(shop: Shop) -> None:
    (one,) = park(shop)
    mend(one)
    shop.send("orders", bytes(one.body))
    shop.send("orders", bytes(one.body), "text/plain")
    shop.drain()

    resolve_what_took_effect("orders")

    assert states() == ["resolved", "parked"]


def test_a_resolved_dead_letter_ends_the_wait_of_its_redrive(shop: Shop) -> None:
    """Its message is lost, and another copy took effect."""
    (one,) = park(shop)
    started = redrives.advance(begin(), shop)
    message: Stored | None = shop.take("orders")
    assert message is not None
    shop.broker.ack(message.tag)
    mend(one)
    shop.publish([Outgoing(body=bytes(one.body), exchange="", routing_key="orders")])
    shop.drain()
    resolve_what_took_effect("orders")

    assert redrives.advance(started, shop).state == "done"
    assert history() == [("retry", "resolved")]


def test_a_dead_letter_is_overdue_within_a_time_a_person_would_wait() -> None:
    assert timedelta(minutes=1) < OUTCOME_WITHIN < timedelta(hours=1)
