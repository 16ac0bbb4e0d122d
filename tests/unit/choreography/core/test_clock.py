"""Time, identifiers and jitter come from one place, which can be replaced."""

from datetime import UTC, datetime, timedelta
from threading import Thread

import pytest

from choreography.core import clock
from choreography.testing import FrozenClock, frozen_clock


def test_the_system_clock_gives_utc_and_new_ids_and_jitter() -> None:
    before = datetime.now(UTC)
    assert before <= clock.now() <= datetime.now(UTC)
    assert clock.now().tzinfo is UTC
    first, second = clock.new_id(), clock.new_id()
    assert first.version == second.version == 7
    assert first != second
    assert 0 <= clock.jitter() < 1


def test_a_clock_is_replaced_for_every_thread_and_restored() -> None:
    frozen, seen = FrozenClock(), list[datetime]()
    with clock.use_clock(frozen):
        thread = Thread(target=lambda: seen.append(clock.now()))
        thread.start()
        thread.join()
    assert seen == [frozen.now()]
    assert clock.now() != frozen.now()


def test_a_clock_is_restored_after_an_error() -> None:
    frozen = FrozenClock()
    with pytest.raises(ZeroDivisionError), clock.use_clock(frozen):
        raise ZeroDivisionError
    assert clock.now() != frozen.now()


def test_a_frozen_clock_is_in_use_until_its_block_ends() -> None:
    with frozen_clock(seed=7) as frozen:
        assert clock.now() == frozen.now()
        assert clock.jitter() == FrozenClock(seed=7).jitter()
    assert clock.now() != frozen.now()


def test_a_frozen_clock_stands_still_until_it_is_advanced() -> None:
    frozen = FrozenClock(start=datetime(2030, 1, 1, tzinfo=UTC))
    assert frozen.now() == frozen.now() == datetime(2030, 1, 1, tzinfo=UTC)
    frozen.advance(90.5)
    assert frozen.now() == datetime(2030, 1, 1, tzinfo=UTC) + timedelta(seconds=90.5)


def test_ids_rise_even_while_time_stands_still() -> None:
    frozen = FrozenClock()
    ids = [frozen.new_id() for _ in range(1000)]
    assert ids == sorted(set(ids))
    assert {(id_.version, id_.variant) for id_ in ids} == {(7, "specified in RFC 4122")}
    frozen.advance(1)
    assert frozen.new_id() > ids[-1]


def test_a_seed_repeats_a_clock() -> None:
    one, same, other = FrozenClock(7), FrozenClock(7), FrozenClock(8)
    first = [(one.new_id(), one.jitter()) for _ in range(10)]
    assert first == [(same.new_id(), same.jitter()) for _ in range(10)]
    assert first != [(other.new_id(), other.jitter()) for _ in range(10)]
    assert all(0 <= jitter < 1 for _, jitter in first)


def test_the_clock_goes_on_from_the_time_it_was_given() -> None:
    clock_of_a_machine = clock.SystemClock()
    clock_of_a_machine.set(datetime.now(UTC) + timedelta(hours=1))

    ahead = clock_of_a_machine.now() - datetime.now(UTC)

    assert timedelta(minutes=59) < ahead <= timedelta(hours=1)


def test_a_difference_below_a_second_is_none() -> None:
    clock_of_a_machine = clock.SystemClock()
    clock_of_a_machine.set(datetime.now(UTC) + timedelta(seconds=0.9))

    assert clock_of_a_machine.now() <= datetime.now(UTC)
