"""Messages that hold several events, in CloudEvents' JSON batch format: taken as one message for each event.

Such a message is acknowledged when each of its events is. If one of them is rejected the message is: its other events
are duplicates when they come again.
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

from choreography.core.errors import Unusable
from choreography.events.messages import CONTENT_TYPE, events_in, is_batched


class Acknowledgement(NamedTuple):
    """What the broker is to be told about a message: that it was handled, or that it is rejected."""

    message: Any
    rejected: bool | None
    """Whether a rejected message goes back into its queue; ``None`` if it is acknowledged."""


@dataclass
class _Whole:
    message: Any
    unacknowledged: int
    rejected: bool | None = None


class EventOfMessage:
    """One event of a message, as a message of its own."""

    content_type = CONTENT_TYPE

    def __init__(self, body: bytes, whole: _Whole) -> None:
        self.body, self.whole = body, whole
        self.headers, self.delivery_info = whole.message.headers, whole.message.delivery_info


def events_of(message: Any) -> list[Any]:
    """Each event of a message as a message of its own; what holds one event, or can't be read, is left as it is.

    Returns:
        Nothing, if the message holds no event: there is nothing to do for it.
    """
    if not is_batched(message.content_type):
        return [message]
    body = message.body.encode() if isinstance(message.body, str) else bytes(message.body or b"")
    try:
        bodies = events_in(body)
    except Unusable:
        return [message]
    whole = _Whole(message, len(bodies))
    return [EventOfMessage(each, whole) for each in bodies]


def acknowledgement_of(message: Any, rejected: bool | None) -> Acknowledgement | None:
    """What the broker is to be told now that an event has been dealt with; ``None`` while others of its message wait.

    Args:
        message: which ``events_of`` has given.
        rejected: as in ``Acknowledgement``.
    """
    if not isinstance(message, EventOfMessage):
        return Acknowledgement(message, rejected)
    whole = message.whole
    whole.unacknowledged -= 1
    if rejected is not None:
        whole.rejected = rejected or bool(whole.rejected)
    return None if whole.unacknowledged else Acknowledgement(whole.message, whole.rejected)
