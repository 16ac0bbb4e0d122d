"""Beat ends when it is asked to, and takes notice of that once."""

import signal
from collections.abc import Iterator

import pytest
from celery import signals

NUMBERS = (signal.SIGTERM, signal.SIGINT)


@pytest.fixture(autouse=True)
def handlers_as_they_were() -> Iterator[None]:
    before = {number: signal.getsignal(number) for number in NUMBERS}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("number", NUMBERS)
def test_the_first_signal_ends_it_and_others_do_not_interrupt_that(number: signal.Signals) -> None:
    for each in NUMBERS:
        signal.signal(each, lambda *_: pytest.fail("nobody has taken it"))

    signals.beat_init.send(sender=None)

    with pytest.raises(SystemExit):
        signal.raise_signal(number)
    for each in NUMBERS:
        signal.raise_signal(each)
