"""The choreography in one process: the in-memory broker, the frozen clock, and changed reactions."""

from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import replace
from functools import wraps
from typing import Any
from uuid import UUID

import pytest
from django.db import OperationalError

from choreography.broker import topology
from choreography.broker.embedded.store import Stored
from choreography.broker.publisher import Outgoing
from choreography.core import clock
from choreography.core.errors import Outage
from choreography.events import timers
from choreography.events.messages import Event
from choreography.events.registry import Reaction, reactions
from choreography.events.timers import Timer
from choreography.inbox.deliveries import Done, Duplicate, Parked, RetryLater, Unhandled
from choreography.outbox.announcing import announce, transaction_of
from choreography.storage.tables import ServiceTables
from choreography.testing import Choreography, FrozenClock, Step, override
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


def failing(error: Exception) -> AbstractContextManager[Reaction]:
    """For the duration what hears of the request raises the error."""

    def cancel_shipment(shipment: Shipment, event: Event[Any]) -> None:
        raise error

    return override("shipping.cancel_shipment", function=cancel_shipment)


def take_all(choreography: Choreography, service: str) -> list[Stored]:
    """Every message in a service's inbox, taken by one of its workers."""
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


def test_draining_continues_until_there_is_nothing_to_do(choreography: Choreography) -> None:
    order_id = request()
    # Orders never placed this order, and parks what shipping announces about it.
    assert choreography.drain() == 2
    assert [type(step.outcome) for step in choreography.steps] == [Done, Parked]
    assert Shipment.objects.get().pk == order_id
    assert choreography.drain() == 0


def test_a_retry_waits_on_the_ladder(choreography: Choreography, frozen: FrozenClock) -> None:
    with failing(Outage("down")):
        request()
        choreography.drain()
        assert isinstance(choreography.steps[-1].outcome, RetryLater)
        assert choreography.waiting() == choreography.broker.size(topology.retry_queue_name("shipping", 1)) == 1
        assert choreography.drain() == 0, "the clock stands still"

    frozen.advance(1)
    choreography.drain()

    assert choreography.waiting() == 0
    assert choreography.steps[1].outcome == Done()


def test_settling_lets_time_pass_until_nothing_happens(choreography: Choreography, frozen: FrozenClock) -> None:
    start = frozen.now()
    with failing(ZeroDivisionError()):
        request()
        choreography.settle(quiet=10)
    assert [type(step.outcome) for step in choreography.steps] == [RetryLater, RetryLater, Parked]
    assert 10 <= (frozen.now() - start).total_seconds() < 30


def test_settling_does_not_wait_for_ever(choreography: Choreography) -> None:
    request()
    with (
        failing(Outage("down")),
        pytest.raises(AssertionError, match=r"not settled after 40 s: 1 message\(s\) on the ladder"),
    ):
        choreography.settle(limit=40)


def test_timers_run_at_their_intervals_while_settling(
    choreography: Choreography, monkeypatch: pytest.MonkeyPatch
) -> None:
    ticks: list[str] = []

    def recording(timer: Timer) -> Timer:
        @wraps(timer.function)  # a timer is named after its function
        def tick() -> None:
            ticks.append(timer.name)

        return replace(timer, function=tick)

    recorded = {name: recording(timer) for name, timer in timers._timers.items()}
    monkeypatch.setattr(timers, "_timers", recorded)
    choreography.settle(quiet=30)
    assert ticks.count("shipping.track_parcels") == 30
    assert ticks.count("payments.expire_authorizations") == 1


def test_what_a_lost_worker_had_taken_comes_again(choreography: Choreography) -> None:
    request()
    choreography.relay("orders")
    taken = choreography.take("shipping")
    assert taken is not None
    assert choreography.take("shipping") is None
    choreography.lose_connections()
    again = choreography.take("shipping")
    assert again is not None
    assert (again.body, again.delivery_count) == (taken.body, 1)


def test_what_is_handled_together_is_acknowledged_together(choreography: Choreography) -> None:
    order_ids = {request() for _ in range(3)}
    steps = choreography.handle_together("shipping", take_all(choreography, "shipping"))
    assert [step.outcome for step in steps if isinstance(step, Step)] == [Done()] * 3
    assert choreography.steps == steps
    assert {shipment.pk for shipment in Shipment.objects.all()} == order_ids
    choreography.lose_connections()
    assert choreography.take("shipping") is None


def test_what_a_batch_leaves_unhandled_is_not_acknowledged(choreography: Choreography) -> None:
    request()
    [message] = take_all(choreography, "shipping")
    choreography.publish([Outgoing(message.body, "", topology.queue_name("shipping"))])
    done, unhandled = choreography.handle_together("shipping", [message, *take_all(choreography, "shipping")])
    assert isinstance(done, Step)
    assert unhandled == Unhandled(alone=True)
    assert choreography.steps == [done]
    choreography.lose_connections()
    step = choreography.handle_next("shipping")
    assert step is not None
    assert step.outcome == Duplicate()


def test_a_batch_in_an_outage_waits_on_the_ladder(choreography: Choreography) -> None:
    request()
    request()
    with failing(OperationalError("the server is gone")):
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


# Changed reactions


def test_a_changed_reaction_is_used_for_the_duration_only(choreography: Choreography) -> None:
    before = reactions()
    heard: list[Any] = []
    with override("shipping.cancel_shipment", function=lambda shipment, event: heard.append(event.subject)) as given:
        order_id = request()
        choreography.drain()
    assert given in before
    assert heard == [str(order_id)]
    assert reactions() == before

    request()
    choreography.drain()
    assert len(heard) == 1


def test_a_changed_reaction_is_restored_after_an_error() -> None:
    before = reactions()
    with pytest.raises(ZeroDivisionError), override("shipping.cancel_shipment", ask=print):
        raise ZeroDivisionError
    assert reactions() == before


def test_changes_may_be_nested() -> None:
    def current() -> Reaction:
        [reaction] = [each for each in reactions() if each.name == "shipping.cancel_shipment"]
        return reaction

    with override("shipping.cancel_shipment", ask=print) as original:
        with override("shipping.cancel_shipment", prepare=print) as changed:
            assert (current().ask, current().prepare) == (print, print)
        assert current() == changed
    assert current() == original


@pytest.mark.parametrize(("name", "changes"), [("shipping.dream", {}), ("shipping.cancel_shipment", {"colour": "red"})])
def test_a_misspelt_change_is_refused(name: str, changes: dict[str, Any]) -> None:
    before = reactions()
    with pytest.raises((KeyError, TypeError), match=r"shipping\.dream|colour"), override(name, **changes):
        pytest.fail("changed something")
    assert reactions() == before
