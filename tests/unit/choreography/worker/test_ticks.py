"""A tick in a worker: one at a time, through a queue of its own."""

from collections.abc import Callable

import pytest

from choreography.broker import topology
from choreography.events.timers import Timer
from choreography.worker.tasks import tick_of

pytestmark = pytest.mark.django_db(databases="__all__", transaction=True)


def timer(function: Callable[[], None]) -> Timer:
    function.__module__, function.__name__ = "payments.timers", "look_around"
    return Timer("payments", function, "TRACK_PARCELS_SECONDS", lambda: 1.0)


def test_a_tick_is_skipped_while_the_one_before_still_runs() -> None:
    ticks = []

    def look_around() -> None:
        ticks.append("begun")
        if len(ticks) == 1:
            tick()

    tick = tick_of(timer(look_around))
    tick()
    assert ticks == ["begun"]
    tick()
    assert ticks == ["begun", "begun"]


def test_a_tick_that_fails_does_not_keep_the_next_from_running() -> None:
    ticks = []

    def look_around() -> None:
        ticks.append("begun")
        raise ZeroDivisionError

    tick = tick_of(timer(look_around))
    for _ in range(2):
        with pytest.raises(ZeroDivisionError):
            tick()
    assert ticks == ["begun", "begun"]


def test_ticks_do_not_wait_behind_events() -> None:
    """However many events wait in the inbox, parcels are tracked and old authorizations released."""
    timers = topology.timer_exchange("payments").name

    def bound(queue: str) -> set[str]:
        [found] = [each for each in topology.queues("payments") if each.name == queue]
        return {binding.exchange.name for binding in found.bindings if binding.exchange}

    assert bound(topology.timer_queue("payments").name) == {timers}
    assert timers not in bound(topology.queue_name("payments"))
