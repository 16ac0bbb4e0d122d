"""A publisher that only remembers."""

from collections.abc import Sequence

from choreography.broker.publisher import Outgoing


class Recorder:
    """A publisher that records what it got, or fails."""

    def __init__(self, failing: Exception | None = None) -> None:
        self.failing = failing
        self.batches: list[list[Outgoing]] = []

    def publish(self, messages: Sequence[Outgoing]) -> None:
        self.batches.append(list(messages))
        if self.failing:
            raise self.failing

    def close(self) -> None:
        pass
