"""Many messages are acknowledged with few frames, and each exactly once."""

from random import Random

import pytest

from choreography.worker.acknowledgements import Acknowledgements


class Message:
    """What kombu delivers, on a channel that records the tags it acknowledges."""

    def __init__(self, tag: int, channel: "Channel") -> None:
        self.delivery_tag, self.channel, self.acknowledged = tag, channel, False

    def ack_log_error(self, logger: object, errors: object, multiple: bool = False) -> None:
        assert not self.acknowledged, "kombu refuses to acknowledge a message twice, and that ends the worker"
        self.acknowledged = True
        self.channel.take(self.delivery_tag, multiple)


class Channel:
    def __init__(self) -> None:
        self.open: set[int] = set()
        self.frames = 0

    def take(self, tag: int, multiple: bool) -> None:
        acknowledged_now = {each for each in self.open if each <= tag} if multiple else {tag}
        assert tag in acknowledged_now <= self.open
        self.open -= acknowledged_now
        self.frames += 1


@pytest.mark.parametrize("seed", range(50))
def test_each_message_is_acknowledged_once_and_none_that_is_still_open(seed: int) -> None:
    random, channel, acknowledgements = Random(seed), Channel(), Acknowledgements(multiple=True)
    waiting = [Message(tag, channel) for tag in range(1, 41)]
    for message in waiting:
        channel.open.add(message.delivery_tag)
        acknowledgements.expect(message)
    while waiting:
        batch = random.sample(waiting, random.randint(1, min(8, len(waiting))))
        acknowledgements.ack(batch, None, ())
        waiting = [message for message in waiting if message not in batch]
        assert channel.open == {message.delivery_tag for message in waiting}


def test_what_came_first_and_is_done_together_takes_one_frame() -> None:
    channel, acknowledgements = Channel(), Acknowledgements(multiple=True)
    messages = [Message(tag, channel) for tag in range(1, 101)]
    for message in messages:
        channel.open.add(message.delivery_tag)
        acknowledgements.expect(message)

    acknowledgements.ack(messages, None, ())

    assert (channel.open, channel.frames) == (set(), 1)
