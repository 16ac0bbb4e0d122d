"""Timers: named after their function, and one thing's fault keeps no other from its turn."""

import pytest
from pytest_django.fixtures import Settings

from choreography.core.errors import ContractError, Transient
from choreography.events import timers as module
from choreography.events.timers import every, for_each, timers


def test_a_timer_is_named_after_its_package_and_its_function(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_timers", {})
    settings.TIDY_UP_SECONDS = 90

    @every("TIDY_UP_SECONDS")
    def tidy_up() -> None: ...

    [timer] = timers()
    assert timer.name == f"{__name__.partition('.')[0]}.tidy_up"
    assert (timer.function, timer.seconds) == (tidy_up, 90.0)

    with pytest.raises(ContractError, match="two timers named"):
        every("TIDY_UP_SECONDS")(tidy_up)


def test_every_service_of_the_shop_has_its_timers() -> None:
    assert {timer.name for timer in timers()} == {
        "orders.cancel_unpaid_orders",
        "orders.purge_old_events",
        "orders.redrive_dead_letters",
        "orders.resend_lost_retries",
        "payments.expire_authorizations",
        "payments.purge_old_events",
        "payments.redrive_dead_letters",
        "payments.resend_lost_retries",
        "shipping.track_parcels",
        "shipping.purge_old_events",
        "shipping.redrive_dead_letters",
        "shipping.resend_lost_retries",
    }


def test_each_thing_has_its_turn_and_the_faults_are_raised_in_the_end() -> None:
    done: list[int] = []

    def divide(number: int) -> None:
        done.append(1 // number)

    with pytest.raises(ExceptionGroup, match="2 of the things that were due failed") as failed:
        for_each([0, 1, 0, 1], divide)

    assert done == [1, 1]
    assert [type(error) for error in failed.value.exceptions] == [ZeroDivisionError] * 2


def test_a_passing_fault_is_left_to_the_next_tick() -> None:
    done: list[str] = []

    def act(thing: str) -> None:
        if thing == "down":
            raise Transient
        done.append(thing)

    for_each(["a", "down", "b"], act)
    assert done == ["a", "b"]


def test_a_worker_that_is_stopped_stops_at_once() -> None:
    def act(thing: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        for_each([1, 2], act)
