"""Acknowledge many messages of one channel with few frames."""

import math
from collections.abc import Sequence
from typing import Any


class Acknowledgements:
    """The messages of one channel that are not acknowledged yet. For the thread that uses the channel."""

    def __init__(self, *, multiple: bool) -> None:
        """``multiple``: tags count upwards, and one acknowledgement may cover all before it, as in AMQP."""
        self._multiple = multiple
        #: What has arrived and is not acknowledged, the oldest first.
        self._open: dict[int, Any] = {}

    def expect(self, message: Any) -> None:
        """A message has arrived. It is acknowledged by ``ack`` here, or by itself."""
        if self._multiple:
            self._open[message.delivery_tag] = message

    def ack(self, messages: Sequence[Any], logger: Any, errors: Any) -> None:
        """Acknowledge messages, in whatever order."""
        if self._multiple:
            messages = sorted(messages, key=lambda message: message.delivery_tag)
        for message in messages:
            self._open.pop(message.delivery_tag, None)
        while self._open and (oldest := next(iter(self._open.values()))).acknowledged:
            del self._open[oldest.delivery_tag]
        first_open = next(iter(self._open), math.inf)
        covered = [it for it in messages if it.delivery_tag < first_open] if self._multiple else []
        for message in covered[-1:]:
            message.ack_log_error(logger, errors, multiple=True)
        for message in messages[len(covered) :]:
            message.ack_log_error(logger, errors)
