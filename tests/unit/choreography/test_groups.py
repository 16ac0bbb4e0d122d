"""What waits in a worker: taken at once, together, in order, and never two of one subject at a time."""

import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from choreography.core import clock
from choreography.inbox.deliveries import Delivery
from choreography.testing import FrozenClock
from choreography.worker import batching as groups_module
from choreography.worker.batching import Arrival, Groups

pytestmark = pytest.mark.usefixtures("frozen")

CAPTURE, DISPATCH, PLAN = "orders.record_capture", "orders.record_dispatch", "shipping.plan_shipment"


def arrival(subject: int | None, task: str = CAPTURE, *, alone: bool = False, identity: str = "") -> Arrival:
    return Arrival(
        task=task,
        subject=None if subject is None else UUID(int=subject),
        identity=identity,
        delivery=Delivery(task.partition(".")[0], b""),
        message=None,
        answers=None,
        queue="",
        alone=alone,
    )


def groups_with(*arrivals: Arrival, limit: int = 100, slots: int = 1) -> Groups:
    groups = Groups(limit, slots)
    for each in arrivals:
        groups.add(each)
    return groups


def test_one_that_waits_is_taken_at_once_and_alone() -> None:
    groups = groups_with(one := arrival(1))
    assert groups.take() == [one]
    assert groups.take() == []


def test_all_that_wait_for_one_reaction_are_taken_together_in_the_order_in_which_they_came() -> None:
    waiting = [arrival(subject) for subject in (3, 1, 2)]
    assert groups_with(*waiting).take() == waiting


def test_those_for_another_reaction_wait_for_a_group_of_their_own() -> None:
    first, other, third = arrival(1), arrival(2, DISPATCH), arrival(3)
    groups = groups_with(first, other, third, slots=2)
    assert groups.take() == [first, third]
    assert groups.take() == [other]


def test_the_second_of_a_subject_waits_until_the_first_is_done_whatever_it_is_for() -> None:
    first, second, third = arrival(1), arrival(1, DISPATCH), arrival(1)
    groups = groups_with(first, second, third, slots=3)
    for each in (first, second, third):
        assert groups.take() == [each]
        assert groups.take() == []
        groups.release([each])


def test_what_stands_before_is_not_overtaken_by_the_next_of_its_subject() -> None:
    """Not even where that would fit into the group."""
    capture, dispatch, capture_too = arrival(1), arrival(2, DISPATCH), arrival(2)
    assert groups_with(capture, dispatch, capture_too).take() == [capture]


def test_one_subject_in_two_services_is_two_things() -> None:
    in_orders, in_shipping = arrival(1), arrival(1, PLAN)
    groups = groups_with(in_orders, in_shipping, slots=2)
    assert [groups.take(), groups.take()] == [[in_orders], [in_shipping]]


def test_what_nobody_can_read_is_handled_once_at_a_time() -> None:
    """Copies have the same identity; other rubbish need not wait for them."""
    first, copy, other = (arrival(None, alone=True, identity=identity) for identity in ("a", "a", "b"))
    groups = groups_with(first, copy, other, slots=3)
    assert [groups.take(), groups.take(), groups.take()] == [[first], [other], []]


def test_a_group_grows_up_to_the_limit() -> None:
    waiting = [arrival(subject) for subject in range(5)]
    groups = groups_with(*waiting, limit=2, slots=3)
    assert [groups.take(), groups.take(), groups.take()] == [waiting[:2], waiting[2:4], waiting[4:]]


def test_no_more_groups_are_handled_at_a_time_than_there_are_slots() -> None:
    first, second, third = arrival(1), arrival(2, DISPATCH), arrival(3, PLAN)
    groups = groups_with(first, second, third, slots=2)
    assert [groups.take(), groups.take(), groups.take()] == [[first], [second], []]
    groups.release([first])
    assert groups.take() == [third]


def test_quick_reactions_take_turns() -> None:
    """So what comes meanwhile for any of them makes one larger group."""
    groups = groups_with(arrival(1), arrival(2, DISPATCH), slots=3)
    for group in (groups.take(), groups.take()):
        groups.release(group)
    at_work, other, third, fourth = arrival(2), arrival(3, DISPATCH), arrival(4), arrival(5)
    groups.add(at_work)
    assert groups.take() == [at_work]
    for each in (other, third, fourth):
        groups.add(each)
    assert groups.take() == []
    groups.release([at_work])
    assert groups.take() == [other]
    groups.release([other])
    assert groups.take() == [third, fourth]


def test_after_a_turn_quick_reactions_rest_half_as_long_as_it_took(frozen: FrozenClock) -> None:
    """So what comes meanwhile shares a transaction, and who comes later finds nobody at rest."""
    groups = groups_with(arrival(1))
    groups.release(at_work := groups.take())
    groups.add(arrival(2))
    at_work = groups.take()
    frozen.advance(0.04)
    assert groups.release(at_work) == pytest.approx(0.02)

    waiting = [arrival(3), arrival(4)]
    for each in waiting:
        groups.add(each)
    frozen.advance(0.019)
    assert groups.take() == []
    frozen.advance(0.001)
    assert groups.take() == waiting


def test_nobody_rests_for_an_hour_because_the_clock_was_set_back_by_one(frozen: FrozenClock) -> None:
    groups = groups_with(arrival(1))
    group = groups.take()
    frozen.advance(0.04)
    groups.release(group)
    groups.add(late := arrival(2))
    frozen.advance(-3600)
    assert groups.take() == [late]


def test_nobody_rests_after_a_full_group(frozen: FrozenClock) -> None:
    groups = groups_with(*(arrival(subject) for subject in range(4)), limit=2)
    group = groups.take()
    frozen.advance(0.04)
    assert groups.release(group) == 0
    assert len(groups.take()) == 2


def test_nobody_rests_where_one_thread_does_all_the_work(frozen: FrozenClock) -> None:
    groups = groups_with(arrival(1), arrival(2, DISPATCH))
    groups.rests = False
    group = groups.take()
    frozen.advance(0.04)
    assert groups.release(group) == 0
    assert len(groups.take()) == 1


def test_slow_reactions_neither_rest_nor_wait_for_those_that_do(frozen: FrozenClock) -> None:
    groups = groups_with(arrival(1), arrival(2, DISPATCH), slots=3)
    quick, slow = groups.take(), groups.take()
    frozen.advance(0.09)
    assert groups.release(quick) == pytest.approx(0.045)
    frozen.advance(0.02)
    assert groups.release(slow) == 0
    groups.add(late := arrival(3, DISPATCH))
    assert groups.take() == [late]


def test_a_quick_reaction_that_turns_out_to_be_slow_is_not_waited_for(frozen: FrozenClock) -> None:
    """Somebody may hold the row it wants, for however long."""
    groups = groups_with(arrival(1), arrival(2, DISPATCH), slots=3)
    for group in (groups.take(), groups.take()):
        groups.release(group)
    groups.add(stuck := arrival(3))
    assert groups.take() == [stuck]
    groups.add(other := arrival(4, DISPATCH))
    frozen.advance(0.099)
    assert groups.take() == []
    frozen.advance(0.001)
    assert groups.take() == [other]


@pytest.mark.parametrize(("events", "seconds"), [(2, 0.1), (20, 0.5)], ids=["a few", "many"])
def test_a_reaction_that_takes_its_time_has_as_many_groups_as_there_is_room_for(
    frozen: FrozenClock, events: int, seconds: float
) -> None:
    groups = groups_with(*(arrival(subject) for subject in range(events)), slots=3)
    group = groups.take()
    frozen.advance(seconds)
    groups.release(group)
    for subject in (30, 31):
        groups.add(late := arrival(subject))
        assert groups.take() == [late]


@pytest.mark.parametrize(("events", "seconds"), [(1, 0.09), (20, 0.49)], ids=["long for one", "long in all"])
def test_one_that_takes_no_longer_than_any_does_on_a_busy_machine_is_quick(
    frozen: FrozenClock, events: int, seconds: float
) -> None:
    groups = groups_with(*(arrival(subject) for subject in range(events)), slots=3)
    group = groups.take()
    frozen.advance(seconds)
    groups.release(group)
    frozen.advance(seconds)
    groups.add(at_work := arrival(30))
    assert groups.take() == [at_work]
    groups.add(arrival(31))
    assert groups.take() == []


def test_slow_reactions_go_on_beside_a_quick_one(frozen: FrozenClock) -> None:
    groups = groups_with(arrival(1), arrival(2, DISPATCH), slots=3)
    quick, slow = groups.take(), groups.take()
    groups.release(quick)
    frozen.advance(0.2)
    groups.release(slow)
    groups.add(at_work := arrival(3))
    assert groups.take() == [at_work]
    groups.add(other := arrival(4, DISPATCH))
    assert groups.take() == [other]


def test_what_waits_behind_a_quick_reaction_is_not_overtaken_by_the_next_of_its_subject() -> None:
    groups = groups_with(arrival(1), slots=3)
    groups.release(groups.take())
    groups.add(at_work := arrival(1))
    assert groups.take() == [at_work]
    groups.add(before := arrival(2))
    groups.add(arrival(2, DISPATCH))
    assert groups.take() == []
    groups.release([at_work])
    assert groups.take() == [before]


def test_nothing_is_taken_when_there_is_no_slot_any_more() -> None:
    groups = groups_with(arrival(1))
    groups.slots = 0
    assert groups.take() == []


def test_one_that_must_be_alone_is_alone_wherever_it_stands() -> None:
    suspect, *others = arrival(1, alone=True), arrival(2), arrival(3)
    groups = groups_with(suspect, *others, slots=2)
    assert [groups.take(), groups.take()] == [[suspect], others]

    others_first = groups_with(*others, suspect, slots=2)
    assert [others_first.take(), others_first.take()] == [others, [suspect]]


def test_what_is_left_comes_before_everything_else_in_its_order() -> None:
    waiting = [arrival(subject) for subject in range(6)]
    groups = groups_with(*waiting)
    group = groups.take()
    groups.add(late := arrival(5))
    groups.add(other := arrival(7))

    groups.release(group, again=waiting[4:])

    assert groups.take() == [*waiting[4:], other]
    groups.release([*waiting[4:], other])
    assert groups.take() == [late]


def test_where_time_ran_out_the_next_groups_are_smaller_and_grow_again() -> None:
    groups = groups_with(*(arrival(subject) for subject in range(100)), limit=16)
    group = groups.take()
    groups.release(group, again=group[3:])
    sizes = []
    for _ in range(5):
        group = groups.take()
        sizes.append(len(group))
        groups.release(group)
    assert sizes == [3, 6, 12, 16, 16]


def test_a_group_shrinks_to_one_at_least_and_grows_from_there() -> None:
    waiting = [arrival(subject) for subject in range(3)]
    groups = groups_with(*waiting)
    groups.release(groups.take(), again=waiting)
    assert groups.take() == waiting[:1]
    groups.release(waiting[:1])
    assert groups.take() == waiting[1:]


def test_only_the_reaction_that_took_long_gets_smaller_groups() -> None:
    groups = groups_with(*(arrival(subject) for subject in range(4)))
    group = groups.take()
    groups.release(group, again=group[1:])
    others = [arrival(subject, DISPATCH) for subject in range(10, 14)]
    for other in others:
        groups.add(other)
    assert groups.take() == group[1:2]
    groups.release(group[1:2])
    groups.forget()
    for other in others:
        groups.add(other)
    assert groups.take() == others


def test_those_that_failed_in_company_do_not_make_groups_smaller() -> None:
    waiting = [arrival(subject) for subject in range(4)]
    groups = groups_with(*waiting)
    group = groups.take()
    for failed in group:
        failed.alone = True
    more = [arrival(subject) for subject in range(10, 50)]
    for each in more:
        groups.add(each)

    groups.release(group, again=group)

    for failed in waiting:
        assert groups.take() == [failed]
        groups.release([failed])
    assert groups.take() == more


def test_what_waits_for_a_lost_connection_is_forgotten_and_what_is_handled_goes_on() -> None:
    handled, waiting = arrival(1), arrival(2)
    groups = groups_with(handled, waiting, limit=1, slots=2)
    assert groups.take() == [handled]

    groups.forget()
    assert groups.take() == []

    groups.add(copy := arrival(1))  # the broker sends again what was not acknowledged
    assert groups.take() == []
    groups.release([handled])
    assert groups.take() == [copy]


class Story:
    """A worker's day, with a plain account of it beside: what came, what waits, what is being handled."""

    def __init__(self, limit: int, slots: int, time: FrozenClock) -> None:
        self.groups = Groups(limit, slots)
        self.time = time
        self.quick: set[str] = set()
        self.begun: dict[int, datetime] = {}
        self.rest_until = time.now()
        self.waiting: list[Arrival] = []
        self.handled: list[list[Arrival]] = []
        self.had_no_time = False

    def arrive(self, task: str, subject: int | None, alone: bool) -> None:
        each = arrival(subject, task, alone=alone or subject is None, identity=task)
        self.groups.add(each)
        self.waiting.append(each)

    def take(self) -> bool:
        group = self.groups.take()
        may_be_taken = self._may_be_taken()
        if len(self.handled) == self.groups.slots or not may_be_taken:
            assert group == []
            return False
        self._check(group, may_be_taken)
        self.handled.append(group)
        self.begun[id(group)] = self.time.now()
        self.waiting = [each for each in self.waiting if each not in group]
        return True

    def release(self, which: int, left: Sequence[bool], alone: bool, seconds: float) -> None:
        if self.handled:
            group = self.handled.pop(which % len(self.handled))
            self.time.advance(seconds)
            is_quick = not self._is_slow(group)
            took = self.time.now() - self.begun.pop(id(group))
            (self.quick.add if is_quick else self.quick.discard)(group[0].task)
            if is_quick and took and len(group) < self.groups.limit:
                self.rest_until = self.time.now() + took / 2
            # The one of a group of one is never left.
            again = [each for each, is_left in zip(group, left, strict=False) if is_left and len(group) > 1]
            for each in again:
                each.alone |= alone
            self.had_no_time |= any(not each.alone for each in again)
            self.groups.release(group, again)
            self.waiting = again + self.waiting

    def forget(self) -> None:
        self.groups.forget()
        self.waiting = []

    def end(self) -> None:
        """Nothing is forgotten: as long as something waits and nothing is being handled, something can be taken."""
        while self.handled:
            self.release(0, [], alone=False, seconds=0)
        while self.waiting:
            self.time.advance(1)
            assert self.take()
            self.release(0, [], alone=False, seconds=0)
        assert self.groups.take() == []

    def _is_slow(self, group: list[Arrival]) -> bool:
        taken = self.time.now() - self.begun[id(group)]
        return taken >= groups_module._LONG and taken >= groups_module._SLOW * len(group)

    def _may_be_taken(self) -> list[Arrival]:
        """The oldest of everything nobody is handling, but for quick reactions while one has its turn or they rest."""
        busy = {key(each) for group in self.handled for each in group}
        at_work = any(group[0].task in self.quick and not self._is_slow(group) for group in self.handled)
        held_up = self.quick if at_work or self.time.now() < self.rest_until else set()
        oldest = {key(each): each for each in reversed(self.waiting)}
        return [
            each
            for each in self.waiting
            if oldest[key(each)] is each and key(each) not in busy and each.task not in held_up
        ]

    def _check(self, group: list[Arrival], may_be_taken: list[Arrival]) -> None:
        first, *_ = may_be_taken
        fit = [each for each in may_be_taken if each.task == first.task and not each.alone]
        wanted = [first] if first.alone else fit[: self.groups.limit]
        if self.had_no_time and group:
            wanted = wanted[: len(group)]  # by how much they shrink is told above
        assert group == wanted


def key(each: Arrival) -> tuple[str, object]:
    return each.delivery.service, each.subject or each.identity


Step = Callable[[Story], Any]
ARRIVE: st.SearchStrategy[Step] = st.builds(
    lambda *what: lambda story: story.arrive(*what),
    st.sampled_from([CAPTURE, DISPATCH, PLAN]),
    st.sampled_from([1, 2, 3, 4, 5, 6, None]),
    st.sampled_from([False, False, False, True]),
)
RELEASE: st.SearchStrategy[Step] = st.builds(
    lambda *what: lambda story: story.release(*what),
    st.integers(0, 9),
    st.lists(st.booleans()),
    st.booleans(),
    st.sampled_from([0, 0.01, 0.09, 60]),
)
TAKE: st.SearchStrategy[Step] = st.just(Story.take)
FORGET: st.SearchStrategy[Step] = st.just(Story.forget)


@settings(max_examples=300, database=None, deadline=None)
@given(
    limit=st.integers(1, 5),
    slots=st.integers(1, 3),
    steps=st.lists(st.one_of(ARRIVE, ARRIVE, ARRIVE, TAKE, TAKE, RELEASE, RELEASE, FORGET), max_size=60),
)
def test_whatever_comes_and_goes_in_whatever_order(limit: int, slots: int, steps: list[Step]) -> None:
    """Each is taken once, in its subject's order, and the oldest takes along whatever may share its transaction."""
    time = FrozenClock()
    with clock.use_clock(time):
        story = Story(limit, slots, time)
        for step in steps:
            step(story)
        story.end()


def test_threads_that_take_at_once_take_each_once_and_no_subject_twice_at_a_time() -> None:
    subjects = 7
    tasks = [CAPTURE, DISPATCH, PLAN]
    waiting = [arrival(number % subjects, tasks[number % subjects % 3]) for number in range(700)]
    groups = groups_with(*waiting, limit=3, slots=4)
    busy = {subject: threading.Lock() for subject in range(subjects)}
    taken: list[Arrival] = []

    deadline = time.monotonic() + 20

    def work() -> None:
        while len(taken) < len(waiting):
            assert time.monotonic() < deadline, f"only {len(taken)} were taken"
            group = groups.take()
            for each in group:
                assert each.subject is not None
                assert busy[each.subject.int].acquire(blocking=False), "two of one subject at a time"
            for each in group:
                assert each.subject is not None
                taken.append(each)
                busy[each.subject.int].release()
            if group:
                groups.release(group)

    with ThreadPoolExecutor(4) as pool:
        for done in [pool.submit(work) for _ in range(4)]:
            done.result()
    for subject in range(subjects):
        assert [each for each in taken if key(each)[1] == UUID(int=subject)] == waiting[subject::subjects]
    assert len(taken) == len(waiting)
