"""The choreography in one process: the in-memory broker and the passing of time."""

from collections.abc import Iterator
from dataclasses import replace
from functools import wraps
from uuid import UUID

import pytest
from django.db import OperationalError

from choreography.broker import topology
from choreography.broker.embedded.store import Stored
from choreography.broker.publisher import Outgoing
from choreography.core import clock
from choreography.core.errors import Outage
from choreography.events import registry, timers
from choreography.events.messages import Event, Nothing
from choreography.events.timers import Timer
from choreography.inbox.deliveries import Done, Duplicate, Parked, RetryLater, Unhandled
from choreography.outbox.announcing import announce, transaction_of
from choreography.storage.tables import ServiceTables
from choreography.testing import Choreography, FrozenClock, Step
from orders.events import CancellationRequested
from shipping.models import Shipment

pytestmark = pytest.mark.django_db(databases="__all__")


@pytest.fixture
def choreography(frozen: FrozenClock) -> Iterator[Choreography]:
    choreography = Choreography(frozen)
    yield choreography
    choreography.close()


def request() -> UUID:
    """Announce something that shipping hears, and answers with something that orders hears. Returns the order's id."""
    order_id = clock.new_id()
    with transaction_of("orders"):
        announce(CancellationRequested(reason="test"), subject=order_id)
    return order_id


def fail(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    def cancel_shipment(event: Event[Nothing]) -> None:
        raise error

    name = "shipping.cancel_shipment"
    monkeypatch.setitem(registry._reactions, name, replace(registry._reactions[name], function=cancel_shipment))


def take_all(choreography: Choreography, service: str) -> list[Stored]:
    """What there is for a service to hear, taken by one of its workers."""
    choreography.relay("orders")
    return list(iter(lambda: choreography.take(service), None))


def test_an_event_waits_in_the_outbox_until_it_is_relayed(choreography: Choreography) -> None:
    request()
    assert choreography.handle_next("shipping") is None
    assert choreography.relay("orders") == 1
    assert choreography.relay("orders") == 0
    step = choreography.handle_next("shipping")
    assert step is not None
    assert (step.service, step.outcome) == ("shipping", Done())
    assert choreography.handle_next("shipping") is None
    assert choreography.steps == [step]


def test_draining_goes_on_until_nothing_is_left_to_do(choreography: Choreography) -> None:
    order_id = request()
    # Orders never placed this order, and parks shipping's answer about it.
    assert choreography.drain() == 2
    assert [type(step.outcome) for step in choreography.steps] == [Done, Parked]
    assert Shipment.objects.get().pk == order_id
    assert choreography.drain() == 0


def test_what_is_to_be_tried_again_waits_on_the_ladder(
    choreography: Choreography, frozen: FrozenClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    fail(monkeypatch, Outage("down"))
    request()
    choreography.drain()
    assert isinstance(choreography.steps[-1].outcome, RetryLater)
    assert choreography.waiting() == choreography.broker.size(topology.retry_queue_name("shipping", 1)) == 1
    assert choreography.drain() == 0, "time stands still"

    monkeypatch.undo()
    frozen.advance(1)
    choreography.drain()

    assert choreography.waiting() == 0
    assert choreography.steps[1].outcome == Done()


def test_settling_lets_time_pass_until_all_is_quiet(
    choreography: Choreography, frozen: FrozenClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    fail(monkeypatch, ZeroDivisionError())
    request()
    start = frozen.now()
    choreography.settle(quiet=10)
    assert [type(step.outcome) for step in choreography.steps] == [RetryLater, RetryLater, Parked]
    assert 10 <= (frozen.now() - start).total_seconds() < 30


def test_settling_does_not_wait_for_ever(choreography: Choreography, monkeypatch: pytest.MonkeyPatch) -> None:
    fail(monkeypatch, Outage("down"))
    request()
    with pytest.raises(AssertionError, match=r"not settled after 40 s: 1 message\(s\) on the ladder"):
        choreography.settle(limit=40)


def test_timers_tick_in_their_own_time_while_settling(
    choreography: Choreography, monkeypatch: pytest.MonkeyPatch
) -> None:
    ticks: list[str] = []

    def note(timer: Timer) -> Timer:
        @wraps(timer.function)  # a timer is named after its function
        def tick() -> None:
            ticks.append(timer.name)

        return replace(timer, function=tick)

    noted = {name: note(timer) for name, timer in timers._timers.items()}
    monkeypatch.setattr(timers, "_timers", noted)
    choreography.settle(quiet=30)
    assert ticks.count("shipping.track_parcels") == 30
    assert ticks.count("payments.expire_authorizations") == 1


def test_what_a_lost_worker_held_comes_again(choreography: Choreography) -> None:
    request()
    choreography.relay("orders")
    held = choreography.take("shipping")
    assert held is not None
    assert choreography.take("shipping") is None
    choreography.lose_connections()
    again = choreography.take("shipping")
    assert again is not None
    assert (again.body, again.delivery_count) == (held.body, 1)


def test_what_is_handled_together_is_acknowledged_together(choreography: Choreography) -> None:
    order_ids = {request() for _ in range(3)}
    steps = choreography.handle_together("shipping", take_all(choreography, "shipping"))
    assert [step.outcome for step in steps if isinstance(step, Step)] == [Done()] * 3
    assert choreography.steps == steps
    assert {shipment.pk for shipment in Shipment.objects.all()} == order_ids
    choreography.lose_connections()
    assert choreography.take("shipping") is None


def test_what_a_group_leaves_is_not_acknowledged(choreography: Choreography) -> None:
    request()
    [message] = take_all(choreography, "shipping")
    choreography.publish([Outgoing(message.body, "", topology.queue_name("shipping"))])
    done, left = choreography.handle_together("shipping", [message, *take_all(choreography, "shipping")])
    assert isinstance(done, Step)
    assert left == Unhandled(alone=True)
    assert choreography.steps == [done]
    choreography.lose_connections()
    step = choreography.handle_next("shipping")
    assert step is not None
    assert step.outcome == Duplicate()


def test_a_group_in_an_outage_waits_on_the_ladder(choreography: Choreography, monkeypatch: pytest.MonkeyPatch) -> None:
    fail(monkeypatch, OperationalError("the server is gone"))
    request()
    request()
    choreography.handle_together("shipping", take_all(choreography, "shipping"))
    assert [type(step.outcome) for step in choreography.steps] == [RetryLater, RetryLater]
    assert choreography.waiting() == 2
    choreography.lose_connections()
    assert choreography.take("shipping") is None


def test_services_can_take_part_alone(frozen: FrozenClock) -> None:
    alone = Choreography(frozen, ["orders", "shipping"])
    request()
    assert alone.drain() == 2
    assert not ServiceTables("payments").inbox.exists()
    alone.close()
