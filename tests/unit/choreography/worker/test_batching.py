"""Batches of what waits in a worker: taken at once, together, in order, and never two of one subject at a time."""

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
from choreography.events.messages import CONTENT_TYPE
from choreography.inbox.deliveries import ATTEMPTS, FIRST_SEEN, WAITS, Delivery
from choreography.testing import FrozenClock
from choreography.worker import batching
from choreography.worker.batching import Batcher
from tests.wire import event, text

pytestmark = pytest.mark.usefixtures("frozen")

CAPTURE, DISPATCH, PLAN = "orders.record_capture", "orders.record_dispatch", "shipping.plan_shipment"


EVENT_TYPES = {
    CAPTURE: "payments.payment_captured.v1",
    DISPATCH: "shipping.shipment_dispatched.v1",
    PLAN: "orders.order_placed.v2",
}


def delivery_of(
    subject: int | None, task: str = CAPTURE, *, alone: bool = False, failed: bool = False, identity: str = ""
) -> Delivery:
    """A delivery to the reaction ``task``; without a subject one of a message that can't be read."""
    service = task.partition(".")[0]
    if subject is None:
        return Delivery(service, f"rubbish {identity}".encode(), alone=alone)
    document = event(EVENT_TYPES[task], subject=str(UUID(int=subject)))
    headers = {ATTEMPTS: 1, WAITS: 0, FIRST_SEEN: "2026-01-01T00:00:00+00:00"} if failed else {}
    return Delivery(service, text(document), CONTENT_TYPE, headers, alone=alone)


def batcher_with(*deliveries: Delivery, limit: int = 100, slots: int = 1) -> Batcher:
    batcher = Batcher(limit, slots)
    for each in deliveries:
        batcher.add(each)
    return batcher


def test_one_that_waits_is_taken_at_once_and_alone() -> None:
    batcher = batcher_with(one := delivery_of(1))
    assert batcher.take() == [one]
    assert batcher.take() == []


def test_all_that_wait_for_one_reaction_are_taken_together_in_the_order_in_which_they_came() -> None:
    waiting = [delivery_of(subject) for subject in (3, 1, 2)]
    assert batcher_with(*waiting).take() == waiting


def test_those_for_another_reaction_wait_for_a_batch_of_their_own() -> None:
    first, other, third = delivery_of(1), delivery_of(2, DISPATCH), delivery_of(3)
    batcher = batcher_with(first, other, third, slots=2)
    assert batcher.take() == [first, third]
    assert batcher.take() == [other]


def test_one_that_is_resumed_elsewhere_lets_no_other_of_its_subject_be_taken() -> None:
    """It was released when it went to the retry ladder, and takes effect in the task of another of its subject."""
    waits, other, third = delivery_of(1), delivery_of(1, DISPATCH), delivery_of(1)
    batcher = batcher_with(waits, other, third, slots=2)
    batcher.release(batcher.take())
    assert batcher.take() == [other]

    batcher.free([waits])

    assert batcher.take() == []
    batcher.release([other])
    assert batcher.take() == [third]


def test_one_that_was_resumed_leaves_nothing_behind_that_another_could_be_taken_for() -> None:
    """Python gives its identity to a later delivery, whose subject stayed busy for ever."""
    batcher = batcher_with()
    bodies = [text(event(EVENT_TYPES[CAPTURE], subject=str(UUID(int=subject)))) for subject in (1, 2)]
    identity = id(resumed := Delivery("orders", bodies[0], CONTENT_TYPE))
    batcher.free([resumed])
    del resumed
    others = [Delivery("orders", bodies[1], CONTENT_TYPE) for _ in range(1000)]
    batcher.add(next((each for each in others if id(each) == identity), others[0]))
    batcher.release(batcher.take())

    batcher.add(later := delivery_of(2))

    assert batcher.take() == [later]


def test_the_second_of_a_subject_waits_until_the_first_is_done_whatever_it_is_for() -> None:
    first, second, third = delivery_of(1), delivery_of(1, DISPATCH), delivery_of(1)
    batcher = batcher_with(first, second, third, slots=3)
    for each in (first, second, third):
        assert batcher.take() == [each]
        assert batcher.take() == []
        batcher.release([each])


def test_what_stands_before_is_not_overtaken_by_the_next_of_its_subject() -> None:
    """Not even where that would fit into the batch."""
    capture, dispatch, capture_too = delivery_of(1), delivery_of(2, DISPATCH), delivery_of(2)
    assert batcher_with(capture, dispatch, capture_too).take() == [capture]


def test_one_subject_in_two_services_is_two_things() -> None:
    in_orders, in_shipping = delivery_of(1), delivery_of(1, PLAN)
    batcher = batcher_with(in_orders, in_shipping, slots=2)
    assert [batcher.take(), batcher.take()] == [[in_orders], [in_shipping]]


def test_what_nobody_can_read_is_handled_once_at_a_time() -> None:
    """Copies have the same identity; other rubbish need not wait for them."""
    first, copy, other = (delivery_of(None, alone=True, identity=identity) for identity in ("a", "a", "b"))
    batcher = batcher_with(first, copy, other, slots=3)
    assert [batcher.take(), batcher.take(), batcher.take()] == [[first], [other], []]


def test_a_batch_grows_up_to_the_limit() -> None:
    waiting = [delivery_of(subject) for subject in range(5)]
    batcher = batcher_with(*waiting, limit=2, slots=3)
    assert [batcher.take(), batcher.take(), batcher.take()] == [waiting[:2], waiting[2:4], waiting[4:]]


def test_no_more_batches_are_handled_at_a_time_than_there_are_slots() -> None:
    first, second, third = delivery_of(1), delivery_of(2, DISPATCH), delivery_of(3, PLAN)
    batcher = batcher_with(first, second, third, slots=2)
    assert [batcher.take(), batcher.take(), batcher.take()] == [[first], [second], []]
    batcher.release([first])
    assert batcher.take() == [third]


def test_quick_reactions_run_one_at_a_time() -> None:
    """So what comes meanwhile for any of them makes one larger batch."""
    batcher = batcher_with(delivery_of(1), delivery_of(2, DISPATCH), slots=3)
    for batch in (batcher.take(), batcher.take()):
        batcher.release(batch)
    at_work, other, third, fourth = delivery_of(2), delivery_of(3, DISPATCH), delivery_of(4), delivery_of(5)
    batcher.add(at_work)
    assert batcher.take() == [at_work]
    for each in (other, third, fourth):
        batcher.add(each)
    assert batcher.take() == []
    batcher.release([at_work])
    assert batcher.take() == [other]
    batcher.release([other])
    assert batcher.take() == [third, fourth]


def test_after_a_batch_quick_reactions_pause_half_as_long_as_it_took(frozen: FrozenClock) -> None:
    """So what comes meanwhile shares a transaction, and what comes later does not wait."""
    batcher = batcher_with(delivery_of(1))
    batcher.release(at_work := batcher.take())
    batcher.add(delivery_of(2))
    batcher.add(delivery_of(3))
    at_work = batcher.take()
    frozen.advance(0.04)
    assert batcher.release(at_work) == pytest.approx(0.02)

    waiting = [delivery_of(4), delivery_of(5)]
    for each in waiting:
        batcher.add(each)
    frozen.advance(0.019)
    assert batcher.take() == []
    frozen.advance(0.001)
    assert batcher.take() == waiting


def test_there_is_no_pause_after_a_single_delivery(frozen: FrozenClock) -> None:
    """Nothing else waited: at low load nothing does."""
    batcher = batcher_with(delivery_of(1))
    single = batcher.take()
    frozen.advance(0.04)

    assert batcher.release(single) == 0
    batcher.add(following := delivery_of(2))
    assert batcher.take() == [following]


def test_no_pause_lasts_an_hour_because_the_clock_was_set_back_by_one(frozen: FrozenClock) -> None:
    batcher = batcher_with(delivery_of(1), delivery_of(3))
    batch = batcher.take()
    frozen.advance(0.04)
    batcher.release(batch)
    batcher.add(late := delivery_of(2))
    frozen.advance(-3600)
    assert batcher.take() == [late]


def test_there_is_no_pause_after_a_full_batch(frozen: FrozenClock) -> None:
    batcher = batcher_with(*(delivery_of(subject) for subject in range(4)), limit=2)
    batch = batcher.take()
    frozen.advance(0.04)
    assert batcher.release(batch) == 0
    assert len(batcher.take()) == 2


def test_there_is_no_pause_where_one_thread_does_all_the_work(frozen: FrozenClock) -> None:
    batcher = batcher_with(delivery_of(1), delivery_of(2, DISPATCH))
    batcher.pauses = False
    batch = batcher.take()
    frozen.advance(0.04)
    assert batcher.release(batch) == 0
    assert len(batcher.take()) == 1


def test_slow_reactions_neither_pause_nor_wait_for_those_that_do(frozen: FrozenClock) -> None:
    batcher = batcher_with(delivery_of(1), delivery_of(4), delivery_of(2, DISPATCH), slots=3)
    quick, slow = batcher.take(), batcher.take()
    frozen.advance(0.09)
    assert batcher.release(quick) == pytest.approx(0.045)
    frozen.advance(0.02)
    assert batcher.release(slow) == 0
    batcher.add(late := delivery_of(3, DISPATCH))
    assert batcher.take() == [late]


def test_a_slow_reaction_that_comes_again_does_not_wait_for_a_pause(frozen: FrozenClock) -> None:
    batcher = batcher_with(delivery_of(1, DISPATCH), slots=3)
    slow = batcher.take()
    frozen.advance(0.11)
    batcher.add(delivery_of(2))
    batcher.add(delivery_of(3))
    quick = batcher.take()
    frozen.advance(0.04)
    assert batcher.release(quick) > 0

    batcher.release(slow, again=slow)

    assert batcher.take() == slow


def test_a_quick_reaction_that_turns_out_to_be_slow_is_not_waited_for(frozen: FrozenClock) -> None:
    """Another transaction may have locked its row, for however long."""
    batcher = batcher_with(delivery_of(1), delivery_of(2, DISPATCH), slots=3)
    for batch in (batcher.take(), batcher.take()):
        batcher.release(batch)
    batcher.add(stuck := delivery_of(3))
    assert batcher.take() == [stuck]
    batcher.add(other := delivery_of(4, DISPATCH))
    frozen.advance(0.099)
    assert batcher.take() == []
    frozen.advance(0.001)
    assert batcher.take() == [other]


@pytest.mark.parametrize(("events", "seconds"), [(2, 0.1), (20, 0.5)], ids=["a few", "many"])
def test_a_reaction_that_takes_its_time_has_as_many_batches_as_there_is_room_for(
    frozen: FrozenClock, events: int, seconds: float
) -> None:
    batcher = batcher_with(*(delivery_of(subject) for subject in range(events)), slots=3)
    batch = batcher.take()
    frozen.advance(seconds)
    batcher.release(batch)
    for subject in (30, 31):
        batcher.add(late := delivery_of(subject))
        assert batcher.take() == [late]


@pytest.mark.parametrize(("events", "seconds"), [(1, 0.09), (20, 0.49)], ids=["long for one", "long in all"])
def test_one_that_takes_no_longer_than_any_does_on_a_busy_machine_is_quick(
    frozen: FrozenClock, events: int, seconds: float
) -> None:
    batcher = batcher_with(*(delivery_of(subject) for subject in range(events)), slots=3)
    batch = batcher.take()
    frozen.advance(seconds)
    batcher.release(batch)
    frozen.advance(seconds)
    batcher.add(at_work := delivery_of(30))
    assert batcher.take() == [at_work]
    batcher.add(delivery_of(31))
    assert batcher.take() == []


def test_slow_reactions_run_beside_a_quick_one(frozen: FrozenClock) -> None:
    batcher = batcher_with(delivery_of(1), delivery_of(2, DISPATCH), slots=3)
    quick, slow = batcher.take(), batcher.take()
    batcher.release(quick)
    frozen.advance(0.2)
    batcher.release(slow)
    batcher.add(at_work := delivery_of(3))
    assert batcher.take() == [at_work]
    batcher.add(other := delivery_of(4, DISPATCH))
    assert batcher.take() == [other]


def test_what_waits_behind_a_quick_reaction_is_not_overtaken_by_the_next_of_its_subject() -> None:
    batcher = batcher_with(delivery_of(1), slots=3)
    batcher.release(batcher.take())
    batcher.add(at_work := delivery_of(1))
    assert batcher.take() == [at_work]
    batcher.add(before := delivery_of(2))
    batcher.add(delivery_of(2, DISPATCH))
    assert batcher.take() == []
    batcher.release([at_work])
    assert batcher.take() == [before]


def test_nothing_is_taken_when_there_is_no_slot_any_more() -> None:
    batcher = batcher_with(delivery_of(1))
    batcher.slots = 0
    assert batcher.take() == []


def test_one_that_must_be_alone_is_alone_wherever_it_stands() -> None:
    suspect, *others = delivery_of(1, alone=True), delivery_of(2), delivery_of(3)
    batcher = batcher_with(suspect, *others, slots=2)
    assert [batcher.take(), batcher.take()] == [[suspect], others]

    others_first = batcher_with(*others, suspect, slots=2)
    assert [others_first.take(), others_first.take()] == [others, [suspect]]


def test_those_that_failed_before_share_batches_with_their_like_only() -> None:
    new, other_new = delivery_of(1), delivery_of(2)
    failed, other_failed = delivery_of(3, failed=True), delivery_of(4, failed=True)
    batcher = batcher_with(new, failed, other_new, other_failed, slots=2)
    assert [batcher.take(), batcher.take()] == [[new, other_new], [failed, other_failed]]


def test_a_few_that_may_end_the_process_are_handled_together_and_with_no_other() -> None:
    suspects = [delivery_of(subject) for subject in range(1, 46)]
    for each in suspects:
        each.exclusive = True
    other = delivery_of(100)
    batcher = batcher_with(suspects[0], other, *suspects[1:], slots=2)
    assert [batcher.take(), batcher.take()] == [suspects[:20], []], "not even in another slot"
    batcher.release(suspects[:20], again=suspects[:20])  # their process has ended
    assert batcher.take() == suspects[:20], "nor does this make batches smaller"
    batcher.release(suspects[:20])
    assert batcher.take() == [other]
    batcher.release([other])
    assert batcher.take() == suspects[20:40]


def test_one_that_may_end_the_process_is_handled_while_nothing_else_is() -> None:
    before, suspect, after = delivery_of(1), delivery_of(2, alone=True), delivery_of(3, DISPATCH)
    suspect.exclusive = True
    batcher = batcher_with(before, suspect, after, slots=3)
    assert [batcher.take(), batcher.take()] == [[before], []], "neither it nor what came later"
    batcher.release([before])
    assert [batcher.take(), batcher.take()] == [[suspect], []]
    batcher.release([suspect])
    assert batcher.take() == [after]


def test_a_subject_is_free_when_its_event_took_effect_though_others_of_its_batch_did_not() -> None:
    quick, slow = delivery_of(1), delivery_of(2)
    batcher = batcher_with(quick, slow, slots=3)
    batch = batcher.take()
    assert batch == [quick, slow]
    batcher.add(next_of_quick := delivery_of(1, DISPATCH))
    batcher.add(delivery_of(2, DISPATCH))
    assert batcher.take() == []

    batcher.free([quick])

    assert batcher.take() == [next_of_quick]
    batcher.add(last_of_quick := delivery_of(1))
    batcher.release(batch)
    taken = [delivery for _ in range(3) for delivery in batcher.take()]
    assert last_of_quick not in taken, "the subject is busy with the event that was taken since"


def test_what_is_unhandled_comes_before_everything_else_in_its_order() -> None:
    waiting = [delivery_of(subject) for subject in range(6)]
    batcher = batcher_with(*waiting)
    batch = batcher.take()
    batcher.add(late := delivery_of(5))
    batcher.add(other := delivery_of(7))

    batcher.release(batch, again=waiting[4:])

    assert batcher.take() == [*waiting[4:], other]
    batcher.release([*waiting[4:], other])
    assert batcher.take() == [late]


def test_where_time_ran_out_the_next_batches_are_smaller_and_grow_again() -> None:
    batcher = batcher_with(*(delivery_of(subject) for subject in range(100)), limit=16)
    batch = batcher.take()
    batcher.release(batch, again=batch[3:])
    sizes = []
    for _ in range(5):
        batch = batcher.take()
        sizes.append(len(batch))
        batcher.release(batch)
    assert sizes == [3, 6, 12, 16, 16]


def test_a_batch_shrinks_to_one_at_least_and_grows_from_there() -> None:
    waiting = [delivery_of(subject) for subject in range(3)]
    batcher = batcher_with(*waiting)
    batcher.release(batcher.take(), again=waiting)
    assert batcher.take() == waiting[:1]
    batcher.release(waiting[:1])
    assert batcher.take() == waiting[1:]


def test_only_the_reaction_that_took_long_gets_smaller_batches() -> None:
    batcher = batcher_with(*(delivery_of(subject) for subject in range(4)))
    batch = batcher.take()
    batcher.release(batch, again=batch[1:])
    others = [delivery_of(subject, DISPATCH) for subject in range(10, 14)]
    for other in others:
        batcher.add(other)
    assert batcher.take() == batch[1:2]
    batcher.release(batch[1:2])
    batcher.forget()
    for other in others:
        batcher.add(other)
    assert batcher.take() == others


def test_those_that_failed_in_a_batch_do_not_make_batches_smaller() -> None:
    waiting = [delivery_of(subject) for subject in range(4)]
    batcher = batcher_with(*waiting)
    batch = batcher.take()
    for failed in batch:
        failed.alone = True
    more = [delivery_of(subject) for subject in range(10, 50)]
    for each in more:
        batcher.add(each)

    batcher.release(batch, again=batch)

    for failed in waiting:
        assert batcher.take() == [failed]
        batcher.release([failed])
    assert batcher.take() == more


def test_what_waits_for_a_lost_connection_is_forgotten_and_what_is_handled_goes_on() -> None:
    handled, waiting = delivery_of(1), delivery_of(2)
    batcher = batcher_with(handled, waiting, limit=1, slots=2)
    assert batcher.take() == [handled]

    batcher.forget()
    assert batcher.take() == []

    batcher.add(copy := delivery_of(1))  # the broker sends again what was not acknowledged
    assert batcher.take() == []
    batcher.release([handled])
    assert batcher.take() == [copy]


class Model:
    """A batcher, and a plain model of it beside: what has arrived, what waits, what is being handled."""

    def __init__(self, limit: int, slots: int, time: FrozenClock) -> None:
        self.batcher = Batcher(limit, slots)
        self.time = time
        self.quick: set[str] = set()
        self.begun: dict[int, datetime] = {}
        self.pause_until = time.now()
        self.waiting: list[Delivery] = []
        self.handled: list[list[Delivery]] = []
        self.had_no_time = False

    def arrive(self, task: str, subject: int | None, alone: bool, failed: bool) -> None:
        each = delivery_of(subject, task, alone=alone or subject is None, failed=failed, identity=task)
        self.batcher.add(each)
        self.waiting.append(each)

    def take(self) -> bool:
        batch = self.batcher.take()
        may_be_taken = self._may_be_taken()
        if len(self.handled) == self.batcher.slots or not may_be_taken:
            assert batch == []
            return False
        self._check(batch, may_be_taken)
        self.handled.append(batch)
        self.begun[id(batch)] = self.time.now()
        taken = set(map(id, batch))
        self.waiting = [each for each in self.waiting if id(each) not in taken]
        return True

    def release(self, which: int, unhandled: Sequence[bool], alone: bool, seconds: float) -> None:
        if self.handled:
            batch = self.handled.pop(which % len(self.handled))
            self.time.advance(seconds)
            is_quick = not self._is_slow(batch)
            took = self.time.now() - self.begun.pop(id(batch))
            (self.quick.add if is_quick else self.quick.discard)(batch[0].task)
            if is_quick and took and 1 < len(batch) < self.batcher.limit:
                self.pause_until = self.time.now() + took / 2
            # The one of a batch of one is never unhandled.
            again = [
                each for each, is_unhandled in zip(batch, unhandled, strict=False) if is_unhandled and len(batch) > 1
            ]
            for each in again:
                each.alone |= alone
            self.had_no_time |= any(not each.alone for each in again)
            self.batcher.release(batch, again)
            self.waiting = again + self.waiting

    def forget(self) -> None:
        self.batcher.forget()
        self.waiting = []

    def end(self) -> None:
        """Nothing is forgotten: as long as something waits and nothing is being handled, something can be taken."""
        while self.handled:
            self.release(0, [], alone=False, seconds=0)
        while self.waiting:
            self.time.advance(1)
            assert self.take()
            self.release(0, [], alone=False, seconds=0)
        assert self.batcher.take() == []

    def _is_slow(self, batch: list[Delivery]) -> bool:
        taken = self.time.now() - self.begun[id(batch)]
        return taken >= batching._SLOW_IN_ALL and taken >= batching._SLOW_EACH * len(batch)

    def _may_be_taken(self) -> list[Delivery]:
        """The oldest of everything nobody is handling, but for quick reactions while one runs or they pause."""
        busy = {each.flow for batch in self.handled for each in batch}
        at_work = any(batch[0].task in self.quick and not self._is_slow(batch) for batch in self.handled)
        held_up = self.quick if at_work or self.time.now() < self.pause_until else set()
        oldest = {each.flow: each for each in reversed(self.waiting)}
        return [
            each
            for each in self.waiting
            if oldest[each.flow] is each and each.flow not in busy and each.task not in held_up
        ]

    def _check(self, batch: list[Delivery], may_be_taken: list[Delivery]) -> None:
        first, *_ = may_be_taken
        fit = [
            each
            for each in may_be_taken
            if (each.task, each.has_failed) == (first.task, first.has_failed) and not each.alone
        ]
        wanted = [first] if first.alone else fit[: self.batcher.limit]
        if self.had_no_time and batch:
            wanted = wanted[: len(batch)]  # by how much they shrink is told above
        assert [*map(id, batch)] == [*map(id, wanted)]


def number_of(delivery: Delivery) -> int:
    return UUID(delivery.envelope.subject).int


Step = Callable[[Model], Any]
ARRIVE: st.SearchStrategy[Step] = st.builds(
    lambda *what: lambda model: model.arrive(*what),
    st.sampled_from([CAPTURE, DISPATCH, PLAN]),
    st.sampled_from([1, 2, 3, 4, 5, 6, None]),
    st.sampled_from([False, False, False, True]),
    st.booleans(),
)
RELEASE: st.SearchStrategy[Step] = st.builds(
    lambda *what: lambda model: model.release(*what),
    st.integers(0, 9),
    st.lists(st.booleans()),
    st.booleans(),
    st.sampled_from([0, 0.01, 0.09, 60]),
)
TAKE: st.SearchStrategy[Step] = st.just(Model.take)
FORGET: st.SearchStrategy[Step] = st.just(Model.forget)


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
        model = Model(limit, slots, time)
        for step in steps:
            step(model)
        model.end()


def test_threads_that_take_at_once_take_each_once_and_no_subject_twice_at_a_time() -> None:
    subjects = 7
    tasks = [CAPTURE, DISPATCH, PLAN]
    waiting = [delivery_of(number % subjects, tasks[number % subjects % 3]) for number in range(700)]
    batcher = batcher_with(*waiting, limit=3, slots=4)
    busy = {subject: threading.Lock() for subject in range(subjects)}
    taken: list[Delivery] = []

    deadline = time.monotonic() + 20

    def work() -> None:
        while len(taken) < len(waiting):
            assert time.monotonic() < deadline, f"only {len(taken)} were taken"
            batch = batcher.take()
            for each in batch:
                assert busy[number_of(each)].acquire(blocking=False), "two of one subject at a time"
            for each in batch:
                taken.append(each)
                busy[number_of(each)].release()
            if batch:
                batcher.release(batch)

    with ThreadPoolExecutor(4) as pool:
        for done in [pool.submit(work) for _ in range(4)]:
            done.result()
    for subject in range(subjects):
        assert [each for each in taken if number_of(each) == subject] == waiting[subject::subjects]
    assert len(taken) == len(waiting)
