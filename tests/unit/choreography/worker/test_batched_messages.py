"""A message with several events is answered when each of them is, and once."""

from typing import Any

import pytest

from choreography.events.messages import BATCH_CONTENT_TYPE, CONTENT_TYPE
from choreography.worker.batched_messages import Acknowledgement, acknowledgement_of, events_of


class Message:
    def __init__(self, body: bytes | str, content_type: str | None = BATCH_CONTENT_TYPE) -> None:
        self.body, self.content_type = body, content_type
        self.headers: dict[str, Any] = {"x-delivery-count": 2}
        self.delivery_info: dict[str, Any] = {}


def test_each_event_is_a_message_in_structured_mode_with_the_headers_of_all() -> None:
    events = events_of(Message('[{"n": 1}, {"n": 2}]'))

    assert [(each.body, each.content_type) for each in events] == [
        (b'{"n": 1}', CONTENT_TYPE),
        (b'{"n": 2}', CONTENT_TYPE),
    ]
    assert events[0].headers == {"x-delivery-count": 2}


@pytest.mark.parametrize(
    "message",
    [Message(b"{}", CONTENT_TYPE), Message(b"", None), Message(b"no batch")],
    ids=["one", "none", "unreadable"],
)
def test_any_other_message_is_left_as_it_is(message: Message) -> None:
    assert events_of(message) == [message]
    assert acknowledgement_of(message, None) == Acknowledgement(message, None)
    assert acknowledgement_of(message, True) == Acknowledgement(message, True)


def test_it_is_acknowledged_with_its_last_event() -> None:
    message = Message(b"[1, 2, 3]")
    first, second, third = events_of(message)

    assert acknowledgement_of(second, None) is None
    assert acknowledgement_of(first, None) is None
    assert acknowledgement_of(third, None) == Acknowledgement(message, None)


@pytest.mark.parametrize(
    ("each", "rejected"),
    [
        ([False, None, None], False),
        ([None, False, True], True),
        ([None, True, None], True),
        ([None, None, False], False),
    ],
)
def test_one_that_is_rejected_rejects_all(each: list[bool | None], rejected: bool) -> None:
    message = Message(b"[1, 2, 3]")

    *before, last = map(acknowledgement_of, events_of(message), each)

    assert before == [None, None]
    assert last == Acknowledgement(message, rejected)
