"""A delivery that waits for another event is tried when that has been handled, as far as the process remembers."""

import json
from uuid import UUID, uuid4

import pytest

from choreography.broker.publisher import Outgoing
from choreography.core.errors import NotYet, Outage
from choreography.inbox import handler
from choreography.inbox.deliveries import Delivery, Done, Duplicate, Outcome, RetryLater
from choreography.inbox.resuming import WaitingDeliveries

pytestmark = pytest.mark.usefixtures("frozen")

FLOW, OTHER_FLOW = UUID(int=1), UUID(int=2)


@pytest.fixture
def tried(monkeypatch: pytest.MonkeyPatch) -> list[Delivery]:
    """What is tried again, in order. It takes effect if nothing must be tried before it, or that was."""
    tried: list[Delivery] = []

    def resume(delivery: Delivery) -> bool:
        tried.append(delivery)
        return delivery.headers.get("after") in (None, *(each.headers["name"] for each in tried[:-1]))

    monkeypatch.setattr(handler, "resume", resume)
    return tried


def delivery(name: str, flow: UUID = FLOW, service: str = "shipping", after: str | None = None) -> Delivery:
    """A delivery; ``after`` names the one that must have been tried before it."""
    envelope = {
        "specversion": "1.0",
        "id": str(uuid4()),
        "type": "orders.order_placed.v2",
        "source": "orders",
        "subject": str(flow),
        "time": "2026-01-01T00:00:00Z",
    }
    headers = {"name": name, "after": after}
    return Delivery(service, json.dumps(envelope).encode(), "application/cloudevents+json", headers)


def retry_later(error: Exception) -> Outcome:
    return RetryLater(Outgoing(b"", ""), 1.0, error)


def waiting_for(*waiting: Delivery, most: int = 100) -> WaitingDeliveries:
    memory = WaitingDeliveries(most)
    for each in waiting:
        memory.update(each, retry_later(NotYet()))
    return memory


def test_what_waits_is_tried_once_when_its_event_is_done(tried: list[Delivery]) -> None:
    early = delivery("early")
    memory = waiting_for(early)

    memory.update(delivery("first"), Done())
    memory.update(delivery("second"), Done())

    assert tried == [early]


def test_only_the_same_flow_in_the_same_service_is_tried(tried: list[Delivery]) -> None:
    memory = waiting_for(delivery("of another flow", OTHER_FLOW), delivery("of another service", service="orders"))
    memory.update(delivery("first"), Done())
    assert tried == []


@pytest.mark.parametrize("outcome", [Duplicate(), retry_later(Outage()), retry_later(NotYet())], ids=repr)
def test_only_what_was_done_resumes_anything(tried: list[Delivery], outcome: Outcome) -> None:
    waiting_for(delivery("early")).update(delivery("first"), outcome)
    assert tried == []


def test_only_a_wait_for_another_event_is_remembered(tried: list[Delivery]) -> None:
    memory = WaitingDeliveries()
    memory.update(delivery("down"), retry_later(Outage()))
    memory.update(delivery("first"), Done())
    assert tried == []


def test_what_was_resumed_resumes_the_next(tried: list[Delivery]) -> None:
    third, second = delivery("third", after="second"), delivery("second")
    waiting_for(third, second).update(delivery("first"), Done())
    assert tried == [third, second, third]


def test_what_can_not_be_resumed_is_remembered(tried: list[Delivery]) -> None:
    stuck = delivery("stuck", after="more")
    memory = waiting_for(stuck)
    memory.update(delivery("first"), Done())
    memory.update(delivery("second"), Done())
    assert tried == [stuck, stuck]


def test_the_copy_from_the_ladder_takes_the_place_of_what_is_remembered(tried: list[Delivery]) -> None:
    early = delivery("early")
    memory = waiting_for(early, early)
    memory.update(early, Done())
    assert tried == []


def test_the_oldest_flow_is_forgotten_first(tried: list[Delivery]) -> None:
    memory = waiting_for(delivery("old"), delivery("new", OTHER_FLOW), most=1)
    memory.update(delivery("first"), Done())
    assert tried == []
    memory.update(delivery("first", OTHER_FLOW), Done())
    assert [each.headers["name"] for each in tried] == ["new"]
