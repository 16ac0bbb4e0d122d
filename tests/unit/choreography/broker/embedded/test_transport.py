"""The embedded broker through kombu and Celery: what clients see of it."""

import os
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import IO, Any

import pytest
from kombu import Connection, Consumer, Exchange, Message, Producer, Queue
from kombu.asynchronous.hub import Hub
from kombu.pidbox import Mailbox

from choreography.broker import embedded
from choreography.broker.embedded.transport import open_store

ROOT = Path(__file__).parents[5]
PLACED = Exchange("placed", type="fanout")
PAYMENTS = Queue("payments", exchange=PLACED)
SHIPPING = Queue("shipping", exchange=PLACED)

Connect = Callable[[], Connection]


@pytest.fixture(autouse=True)
def registered() -> None:
    embedded.register()


@pytest.fixture
def file_url(tmp_path: Path) -> Iterator[str]:
    url = f"embedded://{tmp_path}/broker.sqlite3"
    yield url
    open_store(url).close()


@pytest.fixture(params=["memory", "file"])
def url(request: pytest.FixtureRequest, file_url: str, tmp_path: Path) -> str:
    return f"embedded:///:memory:{tmp_path}" if request.param == "memory" else file_url


@pytest.fixture
def connect(url: str) -> Iterator[Connect]:
    connections: list[Connection] = []

    def connect() -> Connection:
        connections.append(Connection(url))
        return connections[-1]

    yield connect
    for connection in connections:
        connection.release()


@pytest.fixture
def connection(connect: Connect) -> Connection:
    connection = connect()
    for queue in (PAYMENTS, SHIPPING):
        queue(connection.channel()).declare()
    return connection


def publish(connection: Connection, body: Any, **options: Any) -> None:
    Producer(connection).publish(body, exchange=PLACED, **options)


def size(connection: Connection, queue: str) -> int:
    channel: Any = connection.default_channel
    return int(channel.queue_declare(queue, passive=True).message_count)


class Listener:
    """Consumes queues on a channel of its own and keeps what it got, unacknowledged."""

    def __init__(self, connection: Connection, *queues: Queue, prefetch: int = 0) -> None:
        self.got: list[Any] = []
        self.connection = connection
        self.channel: Any = connection.channel()
        self.consumer = Consumer(self.channel, list(queues), on_message=self.got.append)
        self.consumer.qos(prefetch_count=prefetch)
        self.consumer.consume()

    def next(self) -> Any:
        self.connection.drain_events(timeout=5)
        return self.got[-1]

    def nothing_more(self) -> bool:
        with pytest.raises(TimeoutError):
            self.connection.drain_events(timeout=0)
        return True


class TestMessages:
    def test_a_payload_travels_as_with_any_broker(self, connection: Connection, connect: Connect) -> None:
        publish(connection, {"total": 1}, serializer="json", headers={"attempt": 1}, correlation_id="c")

        message = Listener(connect(), PAYMENTS).next()

        assert (message.payload, message.headers) == ({"total": 1}, {"attempt": 1})
        assert message.properties == {"correlation_id": "c", "delivery_mode": 2}
        info = dict(message.delivery_info)
        assert info.pop("consumer_tag")
        assert info == {"exchange": "placed", "routing_key": "", "redelivered": False}

    @pytest.mark.parametrize("body", [b"", b"\xff\x00", b"not json"])
    def test_foreign_bytes_arrive_as_they_were(self, connection: Connection, body: bytes) -> None:
        headers = {"compression": "zlib"}  # kombu would unpack the body, or fail to
        options = {"content_type": "application/cloudevents+json", "content_encoding": "utf-8", "headers": headers}
        publish(connection, body, **options)

        message = Listener(connection, PAYMENTS).next()

        assert (message.body, message.content_type) == (body, "application/cloudevents+json")
        assert message.headers == headers

    def test_a_body_that_cant_be_decoded_is_handed_over_and_can_be_refused(self, connection: Connection) -> None:
        publish(connection, b"rubbish", content_type="application/json", content_encoding="utf-8")
        publish(connection, b"rubbish", content_type="application/x-python-serialize", content_encoding="binary")
        undecodable: list[Message] = []
        consumer = Consumer(
            connection.channel(),
            [PAYMENTS],
            callbacks=[unwanted],
            on_decode_error=lambda message, error: undecodable.append(message),
        )
        with consumer:
            for _ in range(2):
                connection.drain_events(timeout=5)

        for message in undecodable:
            message.reject()
        assert len(undecodable) == 2
        assert size(connection, "payments") == 0

    def test_a_requeued_message_returns_to_the_one_queue_it_came_from(
        self, connection: Connection, connect: Connect
    ) -> None:
        publish(connection, "1")
        listener = Listener(connect(), PAYMENTS)

        listener.next().requeue()

        again = listener.next()
        assert again.delivery_info["redelivered"]
        assert again.headers["x-delivery-count"] == 1
        again.ack()
        assert listener.nothing_more()
        assert size(connection, "shipping") == 1

    def test_a_message_that_must_reach_a_queue_is_refused_where_there_is_none(self, connection: Connection) -> None:
        Producer(connection).publish("1", exchange="", routing_key="nowhere")
        Producer(connection).publish("1", exchange="", routing_key="payments", mandatory=True)

        with pytest.raises(connection.channel_errors, match="'nowhere'"):
            Producer(connection).publish("1", exchange="", routing_key="nowhere", mandatory=True)

        assert size(connection, "payments") == 1

    def test_a_refused_message_goes_to_the_dead_letters(self, connection: Connection) -> None:
        dead = Queue("dead", exchange=Exchange("dlx", type="fanout"))
        dead(connection.channel()).declare()
        fragile = Queue("fragile", exchange=PLACED, queue_arguments={"x-dead-letter-exchange": "dlx"})
        fragile(connection.channel()).declare()
        publish(connection, "1")
        listener = Listener(connection, fragile, dead)

        listener.next().reject()

        assert listener.next().headers["x-death"][0]["reason"] == "rejected"

    def test_what_expires_while_a_consumer_waits_is_handed_over_on_time(
        self, connection: Connection, connect: Connect
    ) -> None:
        rung = {"x-dead-letter-exchange": "", "x-dead-letter-routing-key": "payments"}
        Queue("rung", queue_arguments=rung, message_ttl=60)(connection.channel()).declare()
        listener = Listener(connect(), PAYMENTS)
        assert listener.nothing_more()
        sent = time.monotonic()

        Producer(connection).publish("1", exchange="", routing_key="rung", expiration=0.2)

        assert listener.next().headers["x-first-death-reason"] == "expired"
        assert 0.2 <= time.monotonic() - sent < 2

    def test_options_of_a_queue_become_arguments(self, connection: Connection, url: str) -> None:
        queue = Queue("options", expires=10, message_ttl=5, queue_arguments={"x-queue-type": "quorum"})
        queue(connection.channel()).declare()

        assert open_store(url).queue("options").arguments == {
            "x-queue-type": "quorum",
            "x-expires": 10_000,
            "x-message-ttl": 5000,
        }


class TestConsuming:
    def test_prefetch_limits_unacknowledged_messages(self, connection: Connection) -> None:
        for number in range(4):
            publish(connection, number)
        listener = Listener(connection, PAYMENTS, prefetch=2)
        first = listener.next()
        listener.next()
        assert listener.nothing_more()

        first.ack()
        assert listener.next().payload == 2
        assert listener.nothing_more()

        listener.consumer.qos(prefetch_count=3)
        assert listener.next().payload == 3

    def test_large_messages_are_held_up_to_so_many_bytes(
        self, connection: Connection, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("choreography.broker.embedded.transport.MOST_BYTES_HELD", 1000)
        for number in range(5):
            publish(connection, f"{number}" * 400)
        listener = Listener(connection, PAYMENTS, prefetch=100)
        first, *_ = [listener.next() for _ in range(3)]
        assert listener.nothing_more()

        first.ack()
        assert listener.next().payload == "3" * 400
        assert listener.nothing_more()

    def test_without_acknowledgements_there_is_no_limit_and_nothing_comes_back(
        self, connection: Connection, caplog: pytest.LogCaptureFixture
    ) -> None:
        for number in range(3):
            publish(connection, number)
        listener = Listener(connection, PAYMENTS, prefetch=1)
        listener.next()
        got: list[Any] = []
        Consumer(listener.channel, [SHIPPING], on_message=got.append, no_ack=True).consume()
        for _ in range(3):
            connection.drain_events(timeout=5)
        for message in got:
            message.ack()

        listener.channel.close()

        assert [message.payload for message in got] == [0, 1, 2]
        assert (size(connection, "payments"), size(connection, "shipping")) == (3, 0)
        assert not caplog.text

    def test_messages_are_taken_from_queues_and_channels_in_rotation(self, connection: Connection) -> None:
        for number in range(4):
            publish(connection, number)
        both, one = Listener(connection, PAYMENTS, SHIPPING), Listener(connection, PAYMENTS)

        for _ in range(4):
            connection.drain_events(timeout=5)

        assert (len(both.got), len(one.got)) == (2, 2)
        consumers = {message.delivery_info["consumer_tag"] for message in both.got}
        assert len(consumers) == 2

    def test_a_single_message_can_be_fetched(self, connection: Connection) -> None:
        channel: Any = connection.default_channel
        assert channel.basic_get("payments") is None
        publish(connection, "1")

        message = channel.basic_get("payments")

        assert message.payload == "1"
        message.ack()

    def test_a_closed_channel_gives_its_messages_back_at_once(self, connection: Connection) -> None:
        publish(connection, "1")
        listener = Listener(connection, PAYMENTS)
        listener.next()
        assert size(connection, "payments") == 0

        listener.channel.close()

        assert size(connection, "payments") == 1

    def test_a_closed_connection_gives_its_messages_back_and_its_exclusive_queues_are_deleted(
        self, connection: Connection, connect: Connect, url: str
    ) -> None:
        publish(connection, "1")
        other = connect()
        Listener(other, PAYMENTS).next()
        Queue("reply", exclusive=True)(other.channel()).declare()

        other.release()

        assert size(connection, "payments") == 1
        assert [queue.name for queue in open_store(url).queues()] == ["payments", "shipping"]

    def test_a_connection_can_be_opened_again(self, connection: Connection) -> None:
        connection.release()
        publish(connection, "1")
        assert Listener(connection, PAYMENTS).next().payload == "1"

    def test_acknowledging_after_the_channel_was_closed_is_logged(
        self, connection: Connection, caplog: pytest.LogCaptureFixture
    ) -> None:
        publish(connection, "1")
        listener = Listener(connection, PAYMENTS)
        message = listener.next()
        listener.channel.close()

        message.ack()

        assert "too late" in caplog.text
        assert size(connection, "payments") == 1

    def test_a_connection_that_cant_acknowledge_ends_so_that_the_message_comes_again(
        self, file_url: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("choreography.broker.embedded.store.BUSY_SECONDS", 0.01)
        with Connection(file_url) as connection:
            PAYMENTS(connection.channel()).declare()
            publish(connection, "1")
            listener = Listener(connection, PAYMENTS)
            message = listener.next()
            path = file_url.removeprefix("embedded://")
            with closing(sqlite3.connect(path, isolation_level=None)) as other:
                other.execute("BEGIN IMMEDIATE")
                with pytest.raises(connection.connection_errors):
                    message.ack()

            with pytest.raises(connection.connection_errors, match="locked"):
                connection.drain_events(timeout=1)
        with Connection(file_url) as connection:
            assert Listener(connection, PAYMENTS).next().delivery_info["redelivered"]


class TestDeclaring:
    def test_refusals_are_channel_errors_with_amqps_codes(self, connection: Connection) -> None:
        channel: Any = connection.default_channel
        attempts: list[tuple[int, Callable[[], object]]] = [
            (404, lambda: channel.queue_declare("missing", passive=True)),
            (404, lambda: channel.exchange_declare("missing", passive=True)),
            (404, lambda: Producer(channel).publish("", exchange="missing")),
            (406, lambda: channel.exchange_declare("placed", type="topic")),
            (406, lambda: channel.queue_declare("payments", arguments={"x-message-ttl": 1})),
        ]
        for code, attempt in attempts:
            with pytest.raises(connection.channel_errors) as refused:
                attempt()
            assert getattr(refused.value, "code", None) == code

    @pytest.mark.parametrize("wrong", ["embedded://", "embedded:///", "embedded://var/broker.sqlite3"])
    def test_a_wrong_url_is_refused(self, wrong: str) -> None:
        with pytest.raises(ValueError, match="use embedded:///"):
            Connection(wrong).connect()

    def test_stores_in_memory_are_told_apart_by_name(self, tmp_path: Path) -> None:
        urls = [f"embedded:///:memory:{tmp_path}/{name}" for name in "ab"]
        assert open_store(urls[0]) is open_store(urls[0])
        assert open_store(urls[0]) is not open_store(urls[1])

    def test_a_file_that_cant_be_used_is_a_connection_error(self, tmp_path: Path) -> None:
        (tmp_path / "file").touch()
        connection = Connection(f"embedded://{tmp_path}/file/broker.sqlite3")
        with pytest.raises(connection.connection_errors):
            connection.connect()


class TestRemoteControl:
    def test_a_node_answers_again_and_again_and_leaves_no_queue(self, connect: Connect, url: str) -> None:
        mailbox: Any = Mailbox("control", type="fanout", serializer="json")
        server, client = connect(), connect()
        node = mailbox(server).Node("worker", channel=server.channel())
        node.handler(ping)
        consumer = node.listen()
        done = threading.Event()

        def serve() -> None:
            while not done.is_set():
                try:
                    server.drain_events(timeout=0.05)
                except TimeoutError:
                    continue

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            for _ in range(2):
                assert mailbox(client).multi_call("ping", timeout=5, limit=1) == [{"worker": "pong"}]
        finally:
            done.set()
            thread.join()
        consumer.cancel()
        assert open_store(url).queues() == []


def ping(state: Any) -> str:
    return "pong"


class TestEventLoop:
    def test_messages_come_and_acknowledgements_of_other_threads_go(
        self, connection: Connection, connect: Connect, url: str
    ) -> None:
        hub = Hub()
        consuming = connect()
        listener = Listener(consuming, PAYMENTS, prefetch=2)
        consuming.register_with_event_loop(hub)
        for number in range(20):
            publish(connection, number)
        acknowledged = 0
        deadline = time.monotonic() + 10

        while acknowledged < 20 and time.monotonic() < deadline:
            hub.run_once()
            for message in listener.got[acknowledged:]:
                threading.Thread(target=hub.call_soon, args=(message.ack,)).start()
                acknowledged += 1

        hub.run_once()
        consuming.release()
        assert [message.payload for message in listener.got] == list(range(20))
        assert not hub.on_tick
        assert not hub.readers
        hub.close()
        assert size(connection, "payments") == 0

    def test_a_failing_consumer_ends_the_loop_instead_of_being_logged(
        self, connection: Connection, connect: Connect
    ) -> None:
        hub = Hub()
        consuming = connect()
        consumer = Consumer(consuming.channel(), [PAYMENTS], on_message=fail)
        consumer.consume()
        consuming.register_with_event_loop(hub)
        publish(connection, "1")

        hub.call_later(10, hub.stop)
        with pytest.raises(ZeroDivisionError):
            hub.run_forever()
        consuming.release()
        hub.close()


def unwanted(body: Any, message: Message) -> None:
    pytest.fail(f"decoded {body!r}")


def fail(message: Message) -> None:
    raise ZeroDivisionError


APP = """
import os, sys, time
from pathlib import Path
from choreography.broker import embedded
embedded.register()
from celery import Celery

app = Celery("app", broker=os.environ["BROKER_URL"])
app.conf.update(task_acks_late=True, task_ignore_result=True, broker_connection_retry_on_startup=True)

@app.task(name="work")
def work(folder):
    begun = len(list(Path(folder).iterdir()))
    Path(folder, f"begun{begun}").touch()
    if begun == 0:
        time.sleep(60)
"""
CONSUMER = """
import sys
from choreography.broker import embedded
embedded.register()
from kombu import Connection, Consumer, Queue

with Connection(sys.argv[1]) as connection:
    def on_message(message):
        print(message.body.decode(), message.delivery_info["redelivered"], flush=True)
        if message.body == b"ack":
            message.ack()
            print("acked", flush=True)
    with Consumer(connection.channel(), [Queue("q")], on_message=on_message):
        while True:
            connection.drain_events()
"""
PARENT = """
import os, sys
from choreography.broker import embedded
embedded.register()
from kombu import Connection, Consumer, Queue

with Connection(sys.argv[1]) as connection:
    got = []
    Consumer(connection.channel(), [Queue("q", exclusive=True)], on_message=got.append).consume()
    connection.Producer().publish("1", routing_key="q")
    connection.drain_events(timeout=5)
    child = os.fork()
    if child == 0:
        connection.release()
        with Connection(sys.argv[1]) as own:
            own.Producer().publish("2", routing_key="q")
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    connection.drain_events(timeout=5)
    assert [message.payload for message in got] == ["1", "2"]
    assert not any(message.delivery_info["redelivered"] for message in got)
    for message in got:
        message.ack()
"""


@pytest.fixture
def start(tmp_path: Path, file_url: str) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    children: list[subprocess.Popen[str]] = []
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}:{tmp_path}", "BROKER_URL": file_url}
    environment.pop("DJANGO_SETTINGS_MODULE", None)  # the broker needs none, and Celery would load it

    def start(*arguments: str) -> subprocess.Popen[str]:
        command = [sys.executable, *arguments]
        child = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment, cwd=tmp_path)
        children.append(child)
        return child

    yield start
    for child in children:
        child.kill()
        child.communicate()


def line(child: subprocess.Popen[str]) -> str:
    output: IO[str] | None = child.stdout
    assert output is not None
    return output.readline().strip()


def until(condition: Callable[[], Any], seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited too long"
        threading.Event().wait(0.02)


@pytest.mark.processes
class TestProcesses:
    def test_a_killed_consumers_message_goes_to_another_process(
        self, file_url: str, start: Callable[..., subprocess.Popen[str]]
    ) -> None:
        first = start("-c", CONSUMER, file_url)
        with Connection(file_url) as connection:
            queue = Queue("q")(connection.channel())
            queue.declare()
            for body in ("ack", "keep"):
                Producer(connection).publish(body.encode(), exchange="", routing_key="q")
            assert [line(first) for _ in range(3)] == ["ack False", "acked", "keep False"]

            second = start("-c", CONSUMER, file_url)
            first.send_signal(signal.SIGKILL)

            assert line(second) == "keep True"

    def test_a_forked_child_ends_neither_its_parents_connection_nor_its_deliveries(
        self, file_url: str, start: Callable[..., subprocess.Popen[str]]
    ) -> None:
        assert start("-c", PARENT, file_url).wait(30) == 0

    @pytest.mark.parametrize("pool", ["threads", "prefork", "solo"])
    def test_a_celery_worker_is_pinged_killed_and_replaced(
        self, file_url: str, tmp_path: Path, start: Callable[..., subprocess.Popen[str]], pool: str
    ) -> None:
        from celery import Celery

        (tmp_path / "app.py").write_text(APP)
        (tmp_path / "work").mkdir()
        client = Celery("client", broker=file_url)
        command = ["-m", "celery", "-A", "app", "worker", "-P", pool, "-c", "1"]
        worker = start(*command, "-n", "first@%h")
        until(lambda: client.control.ping(timeout=0.5))
        client.send_task("work", [str(tmp_path / "work")])
        until(lambda: (tmp_path / "work" / "begun0").exists())

        worker.send_signal(signal.SIGKILL)
        second = start(*command, "-n", "second@%h")

        until(lambda: (tmp_path / "work" / "begun1").exists())
        until(lambda: open_store(file_url).queue("celery")[2:4] == (0, 0))
        second.terminate()
        assert second.wait(30) == 0
        assert [queue.name for queue in open_store(file_url).queues()] == ["celery"]
        client.close()
