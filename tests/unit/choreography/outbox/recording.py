"""A publisher that only remembers."""

import json
from collections.abc import Sequence

from choreography.broker.publisher import Outgoing
from choreography.events.messages import events_in, is_batched


class Recorder:
    """A publisher that records what it got, or fails."""

    def __init__(self, failing: Exception | None = None) -> None:
        self.failing = failing
        self.batches: list[list[Outgoing]] = []

    def publish(self, messages: Sequence[Outgoing]) -> None:
        self.batches.append(list(messages))
        if self.failing:
            raise self.failing

    @property
    def ids(self) -> list[str]:
        """The events it got, in their order."""
        messages = [message for batch in self.batches for message in batch]
        bodies = [
            body
            for message in messages
            for body in (events_in(message.body) if is_batched(message.content_type) else [message.body])
        ]
        return [str(json.loads(body)["id"]) for body in bodies]

    def close(self) -> None:
        pass
