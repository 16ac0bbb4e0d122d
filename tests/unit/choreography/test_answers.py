"""Many messages are acknowledged with few frames, and each exactly once."""

from random import Random

import pytest

from choreography.worker.consumer import Answers


class Message:
    """What kombu hands over, on a channel that notes which tags the broker was told."""

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
        answered = {each for each in self.open if each <= tag} if multiple else {tag}
        assert tag in answered <= self.open
        self.open -= answered
        self.frames += 1


@pytest.mark.parametrize("seed", range(50))
def test_each_message_is_acknowledged_once_and_none_that_is_still_open(seed: int) -> None:
    random, channel, answers = Random(seed), Channel(), Answers(multiple=True)
    waiting = [Message(tag, channel) for tag in range(1, 41)]
    for message in waiting:
        channel.open.add(message.delivery_tag)
        answers.expect(message)
    while waiting:
        group = random.sample(waiting, random.randint(1, min(8, len(waiting))))
        answers.ack(group, None, ())
        waiting = [message for message in waiting if message not in group]
        assert channel.open == {message.delivery_tag for message in waiting}


def test_what_came_first_and_is_done_together_takes_one_frame() -> None:
    channel, answers = Channel(), Answers(multiple=True)
    messages = [Message(tag, channel) for tag in range(1, 101)]
    for message in messages:
        channel.open.add(message.delivery_tag)
        answers.expect(message)

    answers.ack(messages, None, ())

    assert (channel.open, channel.frames) == (set(), 1)
