"""What the machinery relies on from a broker, asked of each: in memory, the embedded file, RabbitMQ.

Topology and publisher are the real ones; the services are the shop's own, because who hears what comes from them.
"""

import json
import uuid
from collections.abc import Iterator
from typing import Any

import pytest
from kombu import Connection
from pytest_django.fixtures import Settings

from choreography.broker import topology
from choreography.broker.publisher import BrokerPublisher, Outgoing, connect
from choreography.core.conf import conf
from choreography.core.errors import Transient
from choreography.events.messages import CONTENT_TYPE
from tests.processes import SERVICES, eventually

HEARD_BY_TWO = "orders.order_placed.v2"
HEARD_BY = {"payments", "shipping"}
DELIVERY_LIMIT = 2
RUNG = 1
BODY = b'{"any": "body"}'


class Broker:
    """One broker with the shop's topology in a namespace of its own, and a connection to look at it."""

    def __init__(self) -> None:
        self.connection: Any = self._connected()  # the stubs lack what a channel can do
        topology.declare(self.connection)

    def publish(self, *messages: Outgoing) -> None:
        publisher = BrokerPublisher()
        publisher.publish(messages)
        publisher.close()

    def announce(self, body: bytes = BODY, **properties: Any) -> None:
        self.publish(Outgoing(body, topology.exchange_name(HEARD_BY_TWO), **properties))

    def wait_on_ladder(self, service: str, body: bytes = BODY, **properties: Any) -> None:
        rung = topology.retry_queue_name(service, RUNG)
        self.publish(Outgoing(body, exchange="", routing_key=rung, **properties))

    def get(self, queue: str, channel: Any = None, within: float = 20.0) -> Any:
        """The next message of a queue, not acknowledged."""
        channel = channel or self.connection.default_channel
        return eventually(lambda: self._get(queue, channel), within)

    def get_acked(self, queue: str) -> Any:
        message = self.get(queue)
        message.ack()
        return message

    def is_empty(self, queue: str) -> bool:
        """Nothing is there now. Sound only after something else that was published later has arrived."""
        return self._get(conf().namespace + queue, self.connection.default_channel) is None

    def reconnect(self) -> None:
        self.connection.close()
        self.connection = self._connected()

    def close(self) -> None:
        self.reconnect()
        topology.delete(self.connection)
        self.connection.close()

    @staticmethod
    def _connected() -> Connection:
        connection = connect()
        connection.connect()
        return connection

    @staticmethod
    def _get(queue: str, channel: Any) -> Any:
        found = channel.basic_get(queue, no_ack=False)
        return found and channel.message_to_python(found)


@pytest.fixture(params=["memory", "file", pytest.param("rabbitmq", marks=pytest.mark.rabbitmq)])
def broker(request: pytest.FixtureRequest, settings: Settings, namespace: str) -> Iterator[Broker]:
    match request.param:
        case "memory":
            url = f"embedded:///:memory:{namespace}"
        case "file":
            url = f"embedded://{request.getfixturevalue('tmp_path')}/broker.sqlite3"
        case _:
            url = request.getfixturevalue("rabbitmq_url")
    settings.CHOREOGRAPHY = {
        "SERVICES": SERVICES,
        "BROKER_URL": url,
        "NAMESPACE": namespace,
        "RETRY_RUNGS": (RUNG, 300),
        "DELIVERY_LIMIT": DELIVERY_LIMIT,
    }
    broker = Broker()
    yield broker
    broker.close()


@pytest.fixture
def inbox(broker: Broker) -> str:
    """The queue of a service that hears the event."""
    return topology.queue_name("payments")


@pytest.fixture
def dead(broker: Broker) -> str:
    """Where that service's dead messages go."""
    return topology.dead_queue("payments").name


def raw(message: Any) -> bytes:
    return message.body.encode() if isinstance(message.body, str) else bytes(message.body)


def test_an_event_reaches_every_subscriber_and_nobody_else(broker: Broker) -> None:
    broker.announce(b"heard by two")

    assert {raw(broker.get_acked(topology.queue_name(service))) for service in HEARD_BY} == {b"heard by two"}
    assert all(broker.is_empty(service) for service in SERVICES)


def test_an_event_arrives_once(broker: Broker, inbox: str) -> None:
    broker.announce(b"first")
    broker.announce(b"last")

    assert [raw(broker.get_acked(inbox)) for _ in range(2)] == [b"first", b"last"]
    assert broker.is_empty("payments")


def test_what_was_published_is_there_after_a_reconnect(broker: Broker, inbox: str) -> None:
    broker.announce(b"kept")
    broker.reconnect()

    assert raw(broker.get_acked(inbox)) == b"kept"


def test_a_batch_arrives_whole_and_in_order(broker: Broker, inbox: str) -> None:
    bodies = [str(number).encode() for number in range(50)]
    broker.publish(*(Outgoing(body, topology.exchange_name(HEARD_BY_TWO)) for body in bodies))

    assert [raw(broker.get_acked(inbox)) for _ in bodies] == bodies


def test_a_requeued_message_returns_to_the_one_queue_it_came_from(broker: Broker, inbox: str) -> None:
    broker.announce()
    broker.get(inbox).requeue()

    returned = broker.get_acked(inbox)
    assert returned.delivery_info["redelivered"]
    broker.get_acked(topology.queue_name("shipping"))
    assert broker.is_empty("shipping")


def test_an_unacknowledged_message_returns_when_the_channel_closes(broker: Broker, inbox: str) -> None:
    broker.announce(b"held")
    channel = broker.connection.channel()
    broker.get(inbox, channel)
    assert broker.is_empty("payments")

    channel.close()

    assert raw(broker.get_acked(inbox)) == b"held"


def test_an_acknowledged_message_is_gone(broker: Broker, inbox: str) -> None:
    broker.announce(b"done")
    broker.get_acked(inbox)
    broker.announce(b"next")
    broker.reconnect()

    assert raw(broker.get_acked(inbox)) == b"next"


def test_a_rejected_message_arrives_among_the_dead_with_the_reason(broker: Broker, inbox: str, dead: str) -> None:
    broker.announce(b"refused", headers={"own": "header"})
    broker.get(inbox).reject()

    message = broker.get_acked(dead)
    assert raw(message) == b"refused"
    assert message.headers["own"] == "header"
    assert (message.headers["x-death"][0]["reason"], message.headers["x-death"][0]["queue"]) == ("rejected", inbox)
    assert broker.is_empty("shipping.dead")


def test_a_message_nobody_answers_for_arrives_among_the_dead(broker: Broker, inbox: str, dead: str) -> None:
    broker.announce(b"deadly")
    for _ in range(DELIVERY_LIMIT + 1):
        broker.get(inbox).requeue()

    message = broker.get_acked(dead)
    assert raw(message) == b"deadly"
    assert message.headers["x-death"][0]["reason"] == "delivery_limit"
    assert broker.is_empty("payments")


def test_the_ladder_returns_a_message_whole_to_the_one_inbox(broker: Broker, inbox: str) -> None:
    body, headers = b'{"id": "\xc3\xa4"}', {"x-choreography-attempts": 2, "x-choreography-first-seen": "2026-01-01"}
    broker.wait_on_ladder("payments", body, headers=headers)
    assert broker.is_empty("payments")

    message = broker.get_acked(inbox)
    assert raw(message) == body
    assert message.content_type == CONTENT_TYPE
    assert {name: message.headers[name] for name in headers} == headers
    assert broker.is_empty("shipping")
    assert broker.is_empty("orders")


def test_a_message_may_leave_the_ladder_sooner(broker: Broker, inbox: str, settings: Settings) -> None:
    slow = topology.retry_queue_name("payments", 300)
    broker.publish(Outgoing(b"sooner", exchange="", routing_key=slow, expiration=0.05))

    assert raw(broker.get_acked(inbox)) == b"sooner"


def test_a_message_may_climb_the_ladder_again_and_again(broker: Broker, inbox: str) -> None:
    for _ in range(DELIVERY_LIMIT + 2):
        broker.wait_on_ladder("payments", b"patient", expiration=0.01)
        assert raw(broker.get_acked(inbox)) == b"patient"


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\x00\xff\xfe not text",
        "ünïcode".encode("latin-1"),
        b"{" * 10_000,
        json.dumps({"id": str(uuid.uuid4())}).encode(),
    ],
    ids=["empty", "binary", "latin-1", "long", "json"],
)
@pytest.mark.parametrize("content_type", [CONTENT_TYPE, "application/octet-stream"])
def test_a_body_arrives_byte_for_byte(broker: Broker, inbox: str, body: bytes, content_type: str) -> None:
    broker.announce(body, content_type=content_type)

    message = broker.get_acked(inbox)
    assert raw(message) == body
    assert message.content_type == content_type


def test_declaring_twice_harms_nothing(broker: Broker, inbox: str) -> None:
    broker.announce(b"still there")
    topology.declare(broker.connection)

    assert raw(broker.get_acked(inbox)) == b"still there"


def test_declaring_with_other_arguments_is_refused(broker: Broker, settings: Settings) -> None:
    settings.CHOREOGRAPHY = settings.CHOREOGRAPHY | {"DELIVERY_LIMIT": DELIVERY_LIMIT + 1}

    with connect() as connection, pytest.raises(connection.channel_errors):
        topology.declare(connection)


def test_publishing_to_a_missing_exchange_fails(broker: Broker) -> None:
    with pytest.raises(Transient):
        broker.publish(Outgoing(BODY, exchange=topology.exchange_name("orders.never_declared.v1")))


def test_a_rung_that_is_missing_is_no_silent_loss(broker: Broker) -> None:
    with pytest.raises(Transient):
        broker.publish(Outgoing(BODY, exchange="", routing_key=topology.retry_queue_name("payments", 7)))


def test_deleting_leaves_nothing_behind(broker: Broker, inbox: str) -> None:
    topology.delete(broker.connection)

    with broker.connection.channel() as channel, pytest.raises(broker.connection.channel_errors):
        channel.queue_declare(inbox, passive=True)
    topology.declare(broker.connection)
