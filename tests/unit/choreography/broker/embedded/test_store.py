"""The embedded broker's store: routing, order, expiry, dead letters, and what remains when a process dies."""

import os
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import IO, Any

import pytest

from choreography.broker.embedded.store import SPARE_BYTES, Refused, Store, Stored

ROOT = Path(__file__).parents[5]
ME = "me"


class Clock:
    def __init__(self) -> None:
        self.time = 1_000_000.0

    def __call__(self) -> float:
        return self.time

    def advance(self, seconds: float) -> None:
        self.time += seconds


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture(params=["memory", "file"])
def store(request: pytest.FixtureRequest, clock: Clock, tmp_path: Path) -> Iterator[Store]:
    store = Store(":memory:" if request.param == "memory" else str(tmp_path / "broker.sqlite3"), now=clock)
    yield store
    store.close()


def size_of(path: str) -> int:
    """Bytes of the file and its log."""
    return sum(file.stat().st_size for file in (Path(path), Path(f"{path}-wal")) if file.exists())


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "broker.sqlite3")


def take(store: Store, queue: str, owner: str | None = None) -> Stored:
    stored = store.get([queue], owner or store.new_owner())
    assert stored is not None, f"nothing in {queue}"
    return stored


def bodies(store: Store, queue: str) -> list[bytes]:
    """Everything ready, taken for good."""
    return [stored.body for stored in iter(lambda: store.get([queue], None), None)]


def until(condition: Callable[[], Any], seconds: float = 10) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited too long"
        threading.Event().wait(0.01)


class TestRouting:
    def test_a_fanout_exchange_reaches_every_bound_queue_once(self, store: Store) -> None:
        store.declare_exchange("placed", "fanout")
        for queue in ("payments", "shipping", "stranger"):
            store.declare_queue(queue)
        store.bind("payments", "placed")
        store.bind("payments", "placed", "again")
        store.bind("shipping", "placed")

        assert store.publish("placed", "whatever", b"1") == 2
        assert [store.size(queue) for queue in ("payments", "shipping", "stranger")] == [1, 1, 0]

    def test_a_direct_exchange_compares_the_whole_routing_key(self, store: Store) -> None:
        store.declare_exchange("ticks", "direct")
        store.declare_queue("payments")
        store.bind("payments", "ticks", "payments")

        assert store.publish("ticks", "payments", b"") == 1
        assert store.publish("ticks", "pay", b"") == 0
        assert store.publish("ticks", "payments.x", b"") == 0

    @pytest.mark.parametrize(
        ("pattern", "matching", "other"),
        [
            ("a.*", ["a.b", "a."], ["a", "a.b.c", "b.a", ""]),
            ("a.#", ["a", "a.b", "a.b.c"], ["b", "ab", "b.a"]),
            ("#.z", ["z", "a.z", "a.b.z"], ["z.a", "az"]),
            ("*.b.#.d", ["a.b.d", "a.b.c.d", "a.b.c.c.d"], ["b.d", "a.b", "a.b.c"]),
            ("#", ["", "a", "a.b"], []),
            ("", [""], ["a"]),
            ("worker.online", ["worker.online"], ["workerXonline", "worker.offline"]),
        ],
    )
    def test_a_topic_exchange_knows_star_and_hash(
        self, store: Store, pattern: str, matching: list[str], other: list[str]
    ) -> None:
        store.declare_exchange("events", "topic")
        store.declare_queue("flower")
        store.bind("flower", "events", pattern)

        assert {key: store.publish("events", key, b"") for key in [*matching, *other]} == {
            **dict.fromkeys(matching, 1),
            **dict.fromkeys(other, 0),
        }

    def test_the_default_exchange_leads_to_the_queue_of_that_name(self, store: Store) -> None:
        store.declare_queue("payments")

        assert store.publish("", "payments", b"1") == 1
        assert store.publish("", "missing", b"1") == 0

    def test_an_unbound_queue_gets_nothing_more(self, store: Store) -> None:
        store.declare_exchange("placed", "fanout")
        store.declare_queue("payments")
        store.bind("payments", "placed")
        assert [tuple(binding) for binding in store.bindings()] == [("placed", "", "payments")]

        store.unbind("payments", "placed")

        assert store.publish("placed", "", b"") == 0

    def test_a_missing_queue_or_exchange_is_refused_by_name(self, store: Store) -> None:
        store.declare_queue("payments")
        attempts: list[Callable[[], object]] = [
            lambda: store.publish("placed", "", b""),
            lambda: store.bind("payments", "placed"),
            lambda: store.bind("placed", "placed"),
            lambda: store.add_consumer("placed", ME),
            lambda: store.queue("placed"),
            lambda: store.exchange("placed"),
        ]
        for attempt in attempts:
            with pytest.raises(Refused, match="'placed'") as refused:
                attempt()
            assert refused.value.code == 404


class TestDeclaring:
    def test_declaring_again_keeps_the_messages(self, store: Store) -> None:
        for _ in range(2):
            store.declare_exchange("placed", "fanout")
            store.declare_queue("payments", {"x-delivery-limit": 3, "x-queue-type": "quorum"})
            store.bind("payments", "placed")
            store.publish("placed", "", b"1")

        assert store.size("payments") == 2
        assert store.queue("payments").arguments == {"x-delivery-limit": 3, "x-queue-type": "quorum"}
        assert store.exchanges() == {"placed": "fanout"}

    @pytest.mark.parametrize(
        "declare",
        [
            lambda store: store.declare_queue("there", {"x-message-ttl": 2}),
            lambda store: store.declare_queue("there"),
            lambda store: store.declare_queue("there", {"x-message-ttl": 1}, auto_delete=True),
            lambda store: store.declare_queue("new", {"x-message-ttl": "soon"}),
            lambda store: store.declare_queue("new", {"x-delivery-limit": -1}),
            lambda store: store.declare_exchange("there", "topic"),
            lambda store: store.declare_exchange("new", "headers"),
        ],
    )
    def test_declaring_otherwise_is_refused(self, store: Store, declare: Callable[[Store], None]) -> None:
        store.declare_queue("there", {"x-message-ttl": 1})
        store.declare_exchange("there", "fanout")

        with pytest.raises(Refused, match=r"there|new") as refused:
            declare(store)
        assert refused.value.code == 406

    def test_an_exclusive_queue_belongs_to_its_owner_and_is_deleted_with_it(self, store: Store) -> None:
        mine, other = store.new_owner(), store.new_owner()
        store.declare_queue("reply", exclusive=mine)

        with pytest.raises(Refused) as refused:
            store.declare_queue("reply", exclusive=other)
        assert refused.value.code == 405
        store.release(mine)
        assert store.queues() == []

    def test_an_auto_delete_queue_is_deleted_with_its_last_consumer(self, store: Store) -> None:
        one, two = store.new_owner(), store.new_owner()
        store.declare_exchange("events", "topic")
        store.declare_queue("flower", auto_delete=True)
        store.bind("flower", "events", "#")
        store.add_consumer("flower", one)
        store.add_consumer("flower", two)

        store.remove_consumer("flower", one)
        assert store.queue("flower").consumers == 1
        store.release(two)

        assert (store.queues(), store.bindings()) == ([], [])

    def test_an_unused_queue_expires_and_a_consumed_one_does_not(self, store: Store, clock: Clock) -> None:
        owner = store.new_owner()
        store.declare_queue("reply", {"x-expires": 10_000})
        store.add_consumer("reply", owner)
        clock.advance(11)
        assert store.queue("reply").consumers == 1

        store.release(owner)
        assert store.next_due() == clock() + 10
        clock.advance(11)

        assert store.queues() == []

    def test_deleting_a_queue_can_be_made_conditional(self, store: Store) -> None:
        store.declare_queue("payments")
        store.publish("", "payments", b"")
        store.add_consumer("payments", store.new_owner())

        assert store.delete_queue("payments", if_empty=True) == 0
        assert store.delete_queue("payments", if_unused=True) == 0
        assert store.delete_queue("payments") == 1
        assert store.queues() == []


class TestMessages:
    @pytest.mark.parametrize("body", [b"", b"\xff\x00\xfe", "é".encode(), bytes(range(256)) * 500])
    def test_nothing_of_a_message_changes_on_the_way(self, store: Store, body: bytes) -> None:
        headers = {
            "text": "\u00e9\u0000",
            "bytes": b"\xff",
            "time": datetime(2026, 5, 1, tzinfo=UTC),
            "price": Decimal("1.10"),
            "nested": [{"a": None, "b": [1, 2.5, True]}],
            "lookalike": {"\0bytes": 5},
        }
        store.declare_queue("q")
        store.publish(
            "",
            "q",
            body,
            content_type="strange/type",
            content_encoding="none",
            headers=headers,
            properties={"message_id": "1"},
        )

        stored = take(store, "q")

        assert (stored.body, stored.headers, stored.properties) == (body, headers, {"message_id": "1"})
        assert (stored.content_type, stored.content_encoding) == ("strange/type", "none")
        assert (stored.exchange, stored.routing_key, stored.queue) == ("", "q", "q")

    def test_a_value_no_header_can_carry_is_refused_and_nothing_is_stored(self, store: Store) -> None:
        store.declare_queue("q")
        with pytest.raises(TypeError, match="set"):
            store.publish("", "q", b"", headers={"a": {1}})
        assert store.size("q") == 0

    def test_messages_come_in_the_order_in_which_they_went(self, store: Store) -> None:
        store.declare_queue("q")
        for number in range(5):
            store.publish("", "q", b"%d" % number)
        assert bodies(store, "q") == [b"0", b"1", b"2", b"3", b"4"]

    def test_of_several_queues_the_oldest_message_comes_first(self, store: Store) -> None:
        for queue in ("a", "b"):
            store.declare_queue(queue)
        for queue in ("b", "a", "b"):
            store.publish("", queue, queue.encode())

        taken = [store.get(["a", "b", "missing"], None) for _ in range(4)]

        assert [stored and stored.body for stored in taken] == [b"b", b"a", b"b", None]

    def test_a_reserved_message_is_given_to_no_other_owner(self, store: Store) -> None:
        store.declare_queue("q")
        store.publish("", "q", b"")
        stored = take(store, "q")

        assert store.get(["q"], store.new_owner()) is None
        assert store.queue("q")[2:4] == (0, 1)
        assert store.ack(stored.tag)
        assert store.queue("q")[2:4] == (0, 0)

    def test_a_requeued_message_returns_to_its_position_in_its_own_queue(self, store: Store) -> None:
        store.declare_exchange("placed", "fanout")
        for queue in ("payments", "shipping"):
            store.declare_queue(queue)
            store.bind(queue, "placed")
        for body in (b"1", b"2", b"3"):
            store.publish("placed", "", body)
        take(store, "payments")
        second = take(store, "payments")

        assert store.reject(second.tag, requeue=True)

        again = take(store, "payments")
        assert (again.body, again.redelivered, again.delivery_count) == (b"2", True, 1)
        assert not second.redelivered
        assert store.size("shipping") == 3

    def test_an_owner_that_leaves_gives_everything_back_in_order(self, store: Store) -> None:
        leaver, stayer = store.new_owner(), store.new_owner()
        store.declare_queue("q")
        for body in (b"1", b"2", b"3"):
            store.publish("", "q", body)
        for owner in (leaver, stayer, leaver):
            take(store, "q", owner)

        assert store.release(leaver) == 2

        assert bodies(store, "q") == [b"1", b"3"]

    def test_acknowledging_too_late_changes_no_other_owners_delivery(self, store: Store) -> None:
        store.declare_queue("q")
        store.publish("", "q", b"")
        slow, quick = store.new_owner(), store.new_owner()
        late = take(store, "q", slow)
        store.release(slow)
        current = take(store, "q", quick)

        assert not store.ack(late.tag)
        assert not store.reject(late.tag, requeue=False)
        assert store.ack(current.tag)
        store.publish("", "q", b"another")
        take(store, "q", quick)
        assert not store.ack(late.tag)

    def test_purging_spares_reserved_messages(self, store: Store) -> None:
        store.declare_queue("q")
        store.publish("", "q", b"")
        store.publish("", "q", b"")
        take(store, "q")

        assert store.purge("q") == 1
        assert store.queue("q")[2:4] == (0, 1)


class TestDeadLetters:
    def test_a_rung_of_the_ladder_leads_back_to_the_queue(self, store: Store, clock: Clock) -> None:
        store.declare_queue("payments")
        ladder = {"x-message-ttl": 5000, "x-dead-letter-exchange": "", "x-dead-letter-routing-key": "payments"}
        store.declare_queue("payments.retry.5s", ladder)
        headers: dict[str, Any] = {"attempts": 1}
        for count in (1, 2):
            store.publish("", "payments.retry.5s", b"\xff", headers=headers, properties={"message_id": "1"})
            clock.advance(4.9)
            assert store.get(["payments"], None) is None
            clock.advance(0.2)

            stored = take(store, "payments")

            assert (stored.body, stored.properties) == (b"\xff", {"message_id": "1"})
            assert (stored.exchange, stored.routing_key, stored.delivery_count) == ("", "payments", 0)
            death = {
                "queue": "payments.retry.5s",
                "reason": "expired",
                "exchange": "",
                "routing-keys": ["payments.retry.5s"],
                "count": count,
            }
            assert stored.headers == {
                "attempts": 1,
                "x-death": [death],
                "x-first-death-queue": "payments.retry.5s",
                "x-first-death-reason": "expired",
                "x-first-death-exchange": "",
            }
            headers = stored.headers

    def test_the_shorter_of_the_two_times_counts_at_any_position_in_the_queue(self, store: Store, clock: Clock) -> None:
        store.declare_queue("home")
        back = {"x-message-ttl": 5000, "x-dead-letter-exchange": "", "x-dead-letter-routing-key": "home"}
        store.declare_queue("waiting", back)
        store.publish("", "waiting", b"queue's own")
        for milliseconds in (9000, 1000):
            body = b"%d" % milliseconds
            store.publish("", "waiting", body, properties={"expiration": "1"}, expiration_ms=milliseconds)

        assert store.next_due() == clock() + 1
        clock.advance(1)
        first = take(store, "home")
        assert (first.body, first.properties) == (b"1000", {})
        clock.advance(4)
        assert store.expire() == 2
        assert bodies(store, "home") == [b"queue's own", b"9000"]
        assert store.next_due() is None

    def test_a_reserved_message_does_not_expire(self, store: Store, clock: Clock) -> None:
        store.declare_queue("q", {"x-message-ttl": 1000})
        store.publish("", "q", b"")
        stored = take(store, "q")
        clock.advance(2)
        assert store.expire() == 0

        store.reject(stored.tag, requeue=True)

        assert store.get(["q"], ME) is None

    def test_a_rejected_message_goes_to_the_dead_letter_exchange(self, store: Store) -> None:
        store.declare_exchange("payments.dlx", "fanout")
        store.declare_queue("payments.dead")
        store.bind("payments.dead", "payments.dlx")
        store.declare_exchange("placed", "fanout")
        store.declare_queue("payments", {"x-dead-letter-exchange": "payments.dlx"})
        store.bind("payments", "placed")
        store.publish("placed", "key", b"1", headers={"x-death": ["rubbish", {"count": "x"}]})

        store.reject(take(store, "payments").tag, requeue=False)

        dead = take(store, "payments.dead")
        assert (dead.body, dead.exchange, dead.routing_key) == (b"1", "payments.dlx", "key")
        assert dead.headers["x-death"] == [
            {"queue": "payments", "reason": "rejected", "exchange": "placed", "routing-keys": ["key"], "count": 1},
            {"count": "x"},
        ]
        assert store.queue("payments")[2:4] == (0, 0)

    def test_the_delivery_limit_counts_the_times_a_message_came_back(self, store: Store) -> None:
        store.declare_queue("dead")
        limited = {"x-delivery-limit": 2, "x-dead-letter-exchange": "", "x-dead-letter-routing-key": "dead"}
        store.declare_queue("q", limited)
        store.publish("", "q", b"")
        for delivery in range(3):
            stored = take(store, "q", ME)
            assert stored.delivery_count == delivery
            store.release(ME)

        assert store.size("q") == 0
        assert take(store, "dead").headers["x-first-death-reason"] == "delivery_limit"

    @pytest.mark.parametrize("exchange", ["", "missing"])
    def test_a_dead_letter_without_a_queue_is_logged(
        self, store: Store, caplog: pytest.LogCaptureFixture, exchange: str
    ) -> None:
        store.declare_queue("q", {"x-dead-letter-exchange": exchange, "x-dead-letter-routing-key": "nowhere"})
        store.publish("", "q", b"")

        store.reject(take(store, "q").tag, requeue=False)

        assert "leads to no queue" in caplog.text


class TestSeveralProcesses:
    def test_every_message_goes_to_exactly_one_thread(self, store: Store) -> None:
        store.declare_queue("q")
        for number in range(400):
            store.publish("", "q", b"%d" % number)
        taken: list[bytes] = []

        def work(owner: str) -> None:
            while stored := store.get(["q"], owner):
                assert store.ack(stored.tag)
                taken.append(stored.body)

        threads = [threading.Thread(target=work, args=(store.new_owner(),)) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)

        assert sorted(taken, key=int) == [b"%d" % number for number in range(400)]

    def test_the_version_changes_with_any_write_and_with_nothing_else(self, path: str) -> None:
        one, two = Store(path), Store(path)
        one.declare_queue("q")
        before = one.version()
        assert one.get(["q"], None) is None
        assert one.version() == before

        two.publish("", "q", b"")
        others = one.version()
        one.publish("", "q", b"")

        assert len({before, others, one.version()}) == 3
        one.close()
        two.close()

    def test_messages_of_a_closed_store_are_requeued_and_those_of_a_living_one_are_not(self, path: str) -> None:
        closed, living, sweeper = Store(path), Store(path), Store(path)
        sweeper.declare_queue("q")
        for body in (b"1", b"2"):
            sweeper.publish("", "q", body)
        owner = closed.new_owner()
        take(closed, "q", owner)
        closed.declare_queue("reply", exclusive=owner)
        take(living, "q")

        closed.close()
        sweeper.sweep(at_once=True)

        assert bodies(sweeper, "q") == [b"1"]
        assert [queue.name for queue in sweeper.queues()] == ["q"]
        assert sweeper.queue("q").unacked == 1
        living.close()
        sweeper.close()

    def test_a_file_that_is_busy_when_an_owner_leaves_is_written_later(
        self, path: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        monkeypatch.setattr("choreography.broker.embedded.store.BUSY_SECONDS", 0.01)
        store = Store(path)
        store.declare_queue("q")
        store.publish("", "q", b"1")
        owner = store.new_owner()
        take(store, "q", owner)

        with closing(sqlite3.connect(path, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            store.leave(owner)
        assert "later" in caplog.text
        store.sweep(at_once=True)

        assert bodies(store, "q") == [b"1"]
        store.close()


CHILD = """
import os, sys, threading, time
from pathlib import Path
from choreography.broker.embedded.store import Store
store = Store(sys.argv[1])
def say(text):
    os.write(1, text.encode() + b"\\n")
"""
TAKER = """
owner = store.new_owner()
while stored := store.get(["q"], owner):
    say(stored.body.decode())
say("all")
time.sleep(60)
"""
TAKER_WITH_A_CHILD = f"""
store.new_owner()
if os.fork() == 0:
    say(str(os.getpid()))
    time.sleep(60)
{TAKER}
"""
PUBLISHER = """
number = 0
while True:
    number += 1
    store.publish("", "q", f"{os.getpid()}-{number}".encode())
    say(f"{os.getpid()}-{number}")
"""
FORKING_PUBLISHER = """
store.new_owner()
def publish(name):
    for number in range(200):
        store.publish("", "q", f"{name}-{number}".encode())
thread = threading.Thread(target=publish, args=("thread",))
thread.start()
children = []
for name in range(5):
    child = os.fork()
    if child == 0:
        files = [os.readlink(link) for link in Path("/proc/self/fd").iterdir() if link.is_symlink()]
        inherited = [file for file in files if file.startswith(sys.argv[1])]
        publish(f"child{name}")
        os._exit(len(inherited))
    children.append(child)
thread.join()
for child in children:
    assert os.waitpid(child, 0)[1] == 0
"""


@pytest.fixture
def start(path: str) -> Iterator[Callable[[str], subprocess.Popen[str]]]:
    children: list[subprocess.Popen[str]] = []

    def start(script: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-c", CHILD + script, path]
        child = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT)
        children.append(child)
        return child

    yield start
    for child in children:
        child.kill()
        child.communicate()


def lines(child: subprocess.Popen[str]) -> IO[str]:
    assert child.stdout is not None
    return child.stdout


@pytest.mark.processes
class TestKilledProcesses:
    def test_messages_of_a_killed_process_are_delivered_again(
        self, path: str, start: Callable[[str], subprocess.Popen[str]]
    ) -> None:
        store = Store(path)
        store.declare_queue("q", {"x-delivery-limit": 5})
        wanted = [f"{number}" for number in range(20)]
        for number in wanted:
            store.publish("", "q", number.encode())
        child = start(TAKER)
        assert [lines(child).readline().strip() for _ in range(21)] == [*wanted, "all"]
        assert store.get(["q"], None) is None

        child.kill()
        child.wait()
        store.sweep(at_once=True)

        assert [body.decode() for body in bodies(store, "q")] == wanted
        store.close()

    def test_a_burst_of_large_messages_leaves_no_large_file(self, path: str) -> None:
        store, reader = Store(path), Store(path)
        store.declare_queue("q")
        for _ in range(100):
            store.publish("", "q", bytes(2**20))
            assert reader.version()
        while message := store.get(["q"], None):
            assert len(message.body) == 2**20
        assert size_of(path) > 100 * 2**20

        for _ in range(100):
            store.sweep(at_once=True)

        assert size_of(path) < 3 * SPARE_BYTES
        store.publish("", "q", b"it still works")
        assert bodies(store, "q") == [b"it still works"]
        for each in (store, reader):
            each.close()

    def test_a_killed_process_is_dead_though_its_child_lives(
        self, path: str, start: Callable[[str], subprocess.Popen[str]]
    ) -> None:
        store = Store(path)
        store.declare_queue("q")
        store.publish("", "q", b"1")
        child = start(TAKER_WITH_A_CHILD)
        said = {lines(child).readline().strip() for _ in range(3)}
        (grandchild,) = said - {"1", "all"}

        child.kill()
        child.wait()
        store.sweep(at_once=True)

        try:
            os.kill(int(grandchild), 0)
            assert bodies(store, "q") == [b"1"]
        finally:
            os.kill(int(grandchild), signal.SIGKILL)
        store.close()

    def test_what_a_killed_publisher_reported_is_there(
        self, path: str, start: Callable[[str], subprocess.Popen[str]]
    ) -> None:
        store = Store(path)
        store.declare_queue("q")
        reported: list[str] = []
        for moment in (1, 3, 7, 20, 60):
            child = start(PUBLISHER)
            reported += [lines(child).readline().strip() for _ in range(moment)]
            child.kill()
            reported += [line for line in lines(child).read().splitlines() if line]

        there = [body.decode() for body in bodies(store, "q")]

        assert set(reported) <= set(there)
        assert len(there) == len(set(there)) <= len(reported) + 5
        store.close()

    def test_threads_and_forked_children_publish_side_by_side_and_inherit_no_file(
        self, path: str, start: Callable[[str], subprocess.Popen[str]]
    ) -> None:
        store = Store(path)
        store.declare_queue("q")

        assert start(FORKING_PUBLISHER).wait(60) == 0

        assert len(set(bodies(store, "q"))) == 6 * 200
        store.close()

    def test_processes_that_open_a_new_file_at_once_wait_for_one_another(
        self, path: str, start: Callable[[str], subprocess.Popen[str]]
    ) -> None:
        children = [start('store.declare_queue("q"); store.publish("", "q", b"1")') for _ in range(6)]

        assert [child.wait(60) for child in children] == [0] * 6

        store = Store(path)
        assert store.size("q") == 6
        store.close()
