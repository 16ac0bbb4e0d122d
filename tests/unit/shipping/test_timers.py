"""Tracking parcels: many with few statements, and no parcel, however odd, in the way of another."""

from collections.abc import Callable, Iterator
from uuid import UUID

import pytest
from django.db import connections
from django.test.utils import CaptureQueriesContext
from pytest_django.fixtures import Settings

from choreography.core import clock
from choreography.testing import FrozenClock
from shipping import services, timers
from shipping.carrier import CarrierDown, CarrierError, Tracking
from shipping.models import Outbox, Shipment

pytestmark = pytest.mark.django_db(databases="__all__")

State = Shipment.State


class Carrier:
    """Says of each parcel what it is told to. ``asked``: the parcels, in turn."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.says: dict[str, Callable[[], Tracking]] = {}

    def track(self, parcel: str) -> Tracking:
        self.asked.append(parcel)
        return self.says.get(parcel, lambda: Tracking.DELIVERED)()


_carrier = Carrier()


def the_carrier() -> Carrier:
    return _carrier


@pytest.fixture(autouse=True)
def frozen() -> Iterator[FrozenClock]:
    frozen = FrozenClock()
    with clock.use_clock(frozen):
        yield frozen


@pytest.fixture
def carrier(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Carrier:
    global _carrier
    _carrier = Carrier()
    settings.CARRIER = f"{__name__}.the_carrier"
    monkeypatch.setattr(timers, "_BATCH", 4)
    return _carrier


def dispatched(number: int) -> None:
    Shipment.objects.bulk_create(
        Shipment(order_id=UUID(int=it), state=State.DISPATCHED, parcel=f"p{it}", tracked_at=clock.now())
        for it in range(1, number + 1)
    )


def parcels(state: str) -> list[str]:
    return sorted(Shipment.objects.filter(state=state).values_list("parcel", flat=True))


def fail(error: Exception) -> Callable[[], Tracking]:
    def answer() -> Tracking:
        raise error

    return answer


def test_every_parcel_is_tracked_in_one_tick_with_few_statements(carrier: Carrier) -> None:
    dispatched(10)
    with CaptureQueriesContext(connections["shipping"]) as found:
        timers.track_parcels()

    assert len(parcels(State.DELIVERED)) == 10
    assert Outbox.objects.count() == 10
    assert sum(query["sql"].startswith("UPDATE") for query in found) == 3
    assert sum(query["sql"].startswith("INSERT") for query in found) == 3


def test_a_parcel_that_is_under_way_still_is_only_noted_as_looked_at(carrier: Carrier, frozen: FrozenClock) -> None:
    dispatched(1)
    carrier.says["p1"] = lambda: Tracking.IN_TRANSIT
    frozen.advance(60)
    timers.track_parcels()
    now = Shipment.objects.get()
    assert (now.state, now.tracked_at) == (State.DISPATCHED, clock.now())
    assert not Outbox.objects.exists()


def test_a_faulty_answer_leaves_only_that_parcel_and_to_a_later_tick(carrier: Carrier, frozen: FrozenClock) -> None:
    dispatched(6)
    carrier.says |= {"p1": fail(LookupError("p1")), "p2": fail(CarrierError("502"))}
    frozen.advance(60)

    with pytest.raises(ExceptionGroup, match="of the items that were due failed") as failed:
        timers.track_parcels()

    assert failed.value.subgroup(LookupError)
    assert not failed.value.subgroup(CarrierError)
    assert parcels(State.DISPATCHED) == ["p1", "p2"]
    assert set(Shipment.objects.values_list("tracked_at", flat=True)) == {clock.now()}


def test_what_a_slow_carrier_has_said_is_entered_before_it_is_asked_more(carrier: Carrier, frozen: FrozenClock) -> None:
    entered: list[int] = []

    def slowly() -> Tracking:
        frozen.advance(0.6)
        entered.append(len(parcels(State.DELIVERED)))
        return Tracking.DELIVERED

    dispatched(6)
    carrier.says = dict.fromkeys((f"p{number}" for number in range(1, 7)), slowly)
    timers.track_parcels()
    assert entered == [0, 0, 2, 2, 4, 4]
    assert len(parcels(State.DELIVERED)) == 6


def test_a_carrier_that_is_down_is_asked_once_in_a_while(
    carrier: Carrier, frozen: FrozenClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(timers, "_BATCHES", 2)
    dispatched(8)
    carrier.says = dict.fromkeys((f"p{number}" for number in range(1, 9)), fail(CarrierDown("down")))
    frozen.advance(60)
    timers.track_parcels()
    timers.track_parcels()
    assert sorted(carrier.asked) == ["p1", "p2", "p3", "p4"]


def test_a_tick_is_bounded_and_the_next_goes_on_where_it_ended(
    carrier: Carrier, frozen: FrozenClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(timers, "_BATCHES", 2)
    dispatched(9)
    carrier.says = dict.fromkeys((f"p{number}" for number in range(1, 10)), lambda: Tracking.IN_TRANSIT)
    frozen.advance(60)
    timers.track_parcels()
    assert len(set(carrier.asked)) == len(carrier.asked) == 8
    timers.track_parcels()
    assert len(set(carrier.asked)) == 9


def test_one_parcel_that_cannot_be_entered_keeps_no_other_from_it(
    carrier: Carrier, frozen: FrozenClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    record = services.record_tracking

    def record_but_one(shipment: Shipment, tracking: Tracking) -> None:
        record(shipment, tracking)
        if shipment.parcel == "p2":
            raise ZeroDivisionError

    monkeypatch.setattr(services, "record_tracking", record_but_one)
    dispatched(6)
    frozen.advance(60)

    with pytest.raises(ExceptionGroup):
        timers.track_parcels()

    assert parcels(State.DISPATCHED) == ["p2"]
    assert Outbox.objects.count() == 5
    assert set(Shipment.objects.values_list("tracked_at", flat=True)) == {clock.now()}
