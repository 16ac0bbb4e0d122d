"""Timers: named after their function, and one item's fault keeps no other from being handled."""

import pytest
from django.conf import settings as project
from django.test import override_settings
from pytest_django.fixtures import Settings

from choreography.core.errors import ContractError, Transient
from choreography.events import timers as module
from choreography.events.timers import Timer, every, for_each, register, timers
from tests.testapp.warehouse.packing import count_boxes


@pytest.fixture
def no_timers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_timers", {})


@pytest.mark.usefixtures("no_timers")
def test_a_timer_is_named_after_its_package_and_its_function(settings: Settings) -> None:
    settings.TIDY_UP_SECONDS = 90

    @every("TIDY_UP_SECONDS")
    def tidy_up() -> None: ...

    [timer] = timers()
    assert timer.name == f"{__name__.partition('.')[0]}.tidy_up"
    assert (timer.function, timer.setting, timer.seconds) == (tidy_up, "TIDY_UP_SECONDS", 90.0)

    with pytest.raises(ContractError, match="two timers named"):
        every("TIDY_UP_SECONDS")(tidy_up)


@pytest.mark.usefixtures("no_timers")
def test_the_service_of_a_timer_is_its_django_app_even_in_a_nested_package() -> None:
    with override_settings(INSTALLED_APPS=["tests.testapp.warehouse"]):
        every("COUNT_BOXES_SECONDS")(count_boxes)

    assert [timer.name for timer in timers() if timer.service == "warehouse"] == ["warehouse.count_boxes"]


@pytest.mark.usefixtures("no_timers")
def test_the_interval_of_a_timer_is_read_when_it_is_needed(settings: Settings) -> None:
    every("COUNT_BOXES_SECONDS")(count_boxes)
    intervals = iter([5, 2.5])
    register(Timer("warehouse", lambda: None, "a setting", lambda: next(intervals)))
    counting, other = timers()

    for seconds in (7, 8):
        settings.COUNT_BOXES_SECONDS = seconds
        assert counting.seconds == seconds
    assert [other.seconds, other.seconds] == [5.0, 2.5]
    assert isinstance(counting.seconds, float)


def test_the_intervals_of_the_machinerys_timers_are_settings_of_the_machinery(settings: Settings) -> None:
    given = {"PURGE_SECONDS": 11, "REDRIVE_SECONDS": 12.5, "LOST_RETRIES_SECONDS": 13}
    settings.CHOREOGRAPHY = settings.CHOREOGRAPHY | given
    seconds = {timer.name: timer.seconds for timer in timers()}
    for service in settings.SERVICES:
        assert seconds[f"{service}.purge_old_events"] == 11.0
        assert seconds[f"{service}.redrive_dead_letters"] == 12.5
        assert seconds[f"{service}.publish_lost_retries"] == 13.0


def test_every_service_of_the_shop_has_its_timers() -> None:
    known = {
        "orders.cancel_unpaid_orders",
        "orders.purge_old_events",
        "orders.redrive_dead_letters",
        "orders.publish_lost_retries",
        "orders.announce_accounts",
        "payments.expire_authorizations",
        "payments.purge_old_events",
        "payments.redrive_dead_letters",
        "payments.publish_lost_retries",
        "payments.announce_accounts",
        "shipping.track_parcels",
        "shipping.purge_old_events",
        "shipping.redrive_dead_letters",
        "shipping.publish_lost_retries",
        "shipping.announce_accounts",
        "journal.check_flows",
        "journal.count_minutes",
        "journal.tell_of_marks",
        "journal.export_traces",
        "journal.purge_old_flows",
        "journal.purge_old_events",
        "journal.redrive_dead_letters",
        "journal.publish_lost_retries",
    }
    here = {name for name in known if name.partition(".")[0] in project.SERVICES}
    assert {timer.name for timer in timers()} == here


def test_each_item_is_handled_and_the_faults_are_raised_in_the_end() -> None:
    done: list[int] = []

    def divide(number: int) -> None:
        done.append(1 // number)

    with pytest.raises(ExceptionGroup, match="2 of the items that were due failed") as failed:
        for_each([0, 1, 0, 1], divide)

    assert done == [1, 1]
    assert [type(error) for error in failed.value.exceptions] == [ZeroDivisionError] * 2


def test_a_transient_fault_is_left_to_the_next_tick() -> None:
    done: list[str] = []

    def act(item: str) -> None:
        if item == "down":
            raise Transient
        done.append(item)

    for_each(["a", "down", "b"], act)
    assert done == ["a", "b"]


def test_a_worker_that_is_stopped_stops_at_once() -> None:
    def act(item: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        for_each([1, 2], act)
