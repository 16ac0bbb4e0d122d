"""A message is published when the broker has confirmed it. On RabbitMQ, through a line that can be cut and stalled."""

import secrets
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from kombu import Connection, Exchange, Queue
from pytest_django.fixtures import Settings

from choreography.broker.publisher import BrokerPublisher, Outgoing
from choreography.core.errors import Outage, PublishFailed, PublishRefused, Transient, Unroutable
from tests.processes import eventually
from tests.proxy import Proxy

pytestmark = pytest.mark.rabbitmq

#: Seconds the broker has to confirm, here.
PATIENCE = 0.5


@pytest.fixture
def line(rabbitmq_url: str) -> Iterator[Proxy]:
    with Connection(rabbitmq_url) as broker, closing(Proxy(broker.port or 5672, str(broker.hostname))) as line:
        yield line


@pytest.fixture
def publisher(line: Proxy, rabbitmq_url: str, settings: Settings) -> Iterator[BrokerPublisher]:
    settings.CHOREOGRAPHY = settings.CHOREOGRAPHY | {"CONFIRM_TIMEOUT": PATIENCE}
    publisher = BrokerPublisher(line.url(rabbitmq_url))
    yield publisher
    publisher.close()


class Route:
    """An exchange with one queue, and what has arrived there."""

    def __init__(self, connection: Any, **arguments: object) -> None:
        name = f"test-{secrets.token_hex(4)}"
        self.exchange = Exchange(name, "fanout", durable=True)
        self._queue = Queue(name, self.exchange, queue_arguments={"x-queue-type": "quorum", **arguments})
        self._channel = connection.channel()
        self._queue(self._channel).declare()

    def message(self, text: str = "hello") -> Outgoing:
        return Outgoing(text.encode(), self.exchange.name)

    def next(self) -> str:
        bound: Any = self._queue(self._channel)
        return str(eventually(lambda: bound.get(no_ack=True)).body)

    def size(self) -> int:
        bound: Any = self._queue(self._channel)
        return int(bound.queue_declare(passive=True).message_count)

    def lose_queue(self) -> None:
        self._queue(self._channel).delete()

    def delete(self) -> None:
        self._queue(self._channel).delete()
        self.exchange(self._channel).delete()


@pytest.fixture
def connection(rabbitmq_url: str) -> Iterator[Any]:
    """Any: the stubs lack the methods of a channel."""
    with Connection(rabbitmq_url) as connection:
        yield connection


@pytest.fixture
def route(connection: Any) -> Iterator[Route]:
    route = Route(connection)
    yield route
    route.delete()


@pytest.fixture
def full_route(connection: Any) -> Iterator[Route]:
    """Takes one message and refuses the next."""
    route = Route(connection, **{"x-queue-type": "classic", "x-max-length": 1, "x-overflow": "reject-publish"})
    yield route
    route.delete()


def test_a_thousand_messages_are_there_when_publish_returns(publisher: BrokerPublisher, route: Route) -> None:
    publisher.publish([route.message(str(number)) for number in range(1000)])

    eventually(lambda: route.size() == 1000)
    assert [route.next() for _ in range(3)] == ["0", "1", "2"]


def test_nothing_to_publish_needs_no_broker() -> None:
    BrokerPublisher("amqp://127.0.0.1:1//").publish([])


def test_a_broker_that_can_not_be_reached_is_an_outage_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    pauses: list[float] = []
    monkeypatch.setattr("kombu.utils.functional.sleep", pauses.append)
    publisher = BrokerPublisher("amqp://127.0.0.1:1//")

    with pytest.raises(Outage, match="can't be reached"):
        publisher.publish([Outgoing(b"", "anywhere")])

    assert sum(pauses) == 0


def test_a_refused_message_fails_the_batch(publisher: BrokerPublisher, full_route: Route, route: Route) -> None:
    with pytest.raises(PublishFailed, match="refused"):
        publisher.publish([full_route.message(), route.message(), full_route.message(), full_route.message()])

    publisher.publish([route.message("another")])


TOO_LARGE = {"note": "x" * 200_000}


@pytest.mark.parametrize("positions", [{0}, {49}, {7, 8, 31}], ids=["the first", "the last", "some"])
def test_what_the_broker_will_never_take_is_named_and_the_others_are_confirmed(
    publisher: BrokerPublisher, route: Route, positions: set[int]
) -> None:
    messages = [
        replace(route.message(str(number)), headers=TOO_LARGE if number in positions else {}) for number in range(50)
    ]

    with pytest.raises(PublishRefused) as refused:
        publisher.publish(messages)

    assert refused.value.reasons.keys() == positions
    assert "the broker refuses it" in str(refused.value)
    eventually(lambda: route.size() >= 50 - len(positions))
    arrived = {route.next() for _ in range(route.size())}
    assert arrived == {str(number) for number in range(50)} - {str(position) for position in positions}


@pytest.mark.parametrize(
    "changes",
    [{"content_type": "x" * 300}, {"headers": {"x" * 300: 1}}, {"headers": {"x": 2**70}}],
    ids=["type", "key", "number"],
)
def test_what_amqp_can_not_express_is_refused(
    publisher: BrokerPublisher, route: Route, changes: dict[str, Any]
) -> None:
    with pytest.raises(PublishRefused, match="it can't be sent"):
        publisher.publish([replace(route.message(), **changes)])

    publisher.publish([route.message("another")])


def test_confirmations_and_refusals_of_many_messages_are_distinguished(publisher: BrokerPublisher) -> None:
    """As RabbitMQ may send them: one for several, refusals between, a tag that a later one covers again."""
    publisher._unconfirmed = set(range(1, 11))
    publisher._on_ack(3, multiple=False)
    publisher._on_ack(4, multiple=True)
    publisher._on_nack(6, multiple=False)
    publisher._on_ack(7, multiple=True)
    publisher._on_ack(8, multiple=False)
    publisher._on_nack(9, multiple=True)

    assert publisher._unconfirmed == {10}
    assert publisher._refused == {6, 9}


def test_a_confirmation_costs_the_same_however_many_messages_wait(publisher: BrokerPublisher) -> None:
    publisher._unconfirmed = set(range(1, 1001))

    examined = sum(len(list(publisher._settled(tag, True))) for tag in range(1, 1001))

    assert examined == 1000


def test_a_missing_queue_is_noticed_before_the_whole_batch_is_sent(publisher: BrokerPublisher, route: Route) -> None:
    """What the broker returns is read while messages are still being sent."""
    nowhere = Outgoing(b"", exchange="", routing_key=f"{route.exchange.name}.missing")
    with pytest.raises(Unroutable, match="no queue"):
        publisher.publish([nowhere, *[route.message()] * 20_000])
    assert publisher._last_tag < 20_000


def test_without_a_confirmation_publishing_fails(publisher: BrokerPublisher, route: Route, line: Proxy) -> None:
    publisher.publish([route.message("confirmed")])
    line.stall("to_client")

    with pytest.raises(Transient):
        publisher.publish([route.message("unconfirmed")])


def test_a_late_confirmation_does_not_count_for_the_next_message(
    publisher: BrokerPublisher, route: Route, full_route: Route, line: Proxy
) -> None:
    publisher.publish([full_route.message()])
    line.stall("to_client")
    with pytest.raises(Transient):
        publisher.publish([route.message("confirmed too late")])
    line.flow()

    with pytest.raises(PublishFailed, match="refused 1"):
        publisher.publish([full_route.message()])


def test_a_cut_line_is_an_outage_and_the_next_attempt_takes_a_new_one(
    publisher: BrokerPublisher, route: Route, line: Proxy
) -> None:
    publisher.publish([route.message("before")])
    line.cut()

    with pytest.raises(Outage):
        publisher.publish([route.message("during")])
    publisher.publish([route.message("after")])

    assert route.next() == "before"
    assert route.next() == "after"


def test_keep_alive_finds_a_cut_line(publisher: BrokerPublisher, route: Route, line: Proxy) -> None:
    publisher.publish([route.message("before")])
    publisher.keep_alive()
    line.cut()

    with pytest.raises(Outage):
        eventually(publisher.keep_alive, within=10)
    publisher.publish([route.message("after")])


def test_keep_alive_needs_no_connection(publisher: BrokerPublisher) -> None:
    publisher.keep_alive()


def test_a_missing_exchange_is_an_error(publisher: BrokerPublisher, route: Route) -> None:
    with pytest.raises(Transient):
        publisher.publish([route.message(), Outgoing(b"", f"{route.exchange.name}.missing")])

    publisher.publish([route.message("another")])


def test_a_missing_queue_is_an_error(publisher: BrokerPublisher, route: Route) -> None:
    with pytest.raises(Unroutable, match="no queue"):
        publisher.publish([Outgoing(b"", exchange="", routing_key=f"{route.exchange.name}.missing")])


@pytest.mark.parametrize("url", ["rabbitmq", "embedded"])
def test_a_mandatory_event_is_not_lost_with_its_queue(
    publisher: BrokerPublisher, route: Route, url: str, tmp_path: Path
) -> None:
    if url == "embedded":
        publisher = BrokerPublisher(f"embedded://{tmp_path / 'broker.sqlite3'}")
        route.exchange(publisher._open().default_channel).declare()
    else:
        route.lose_queue()
    publisher.publish([route.message()])

    with pytest.raises(Transient, match=f"[Nn]o queue .* '{route.exchange.name}'"):
        publisher.publish([replace(route.message(), mandatory=True)])
    publisher.close()


def test_an_event_without_a_queue_is_published_all_the_same(publisher: BrokerPublisher, connection: Any) -> None:
    unbound = Exchange(f"test-{secrets.token_hex(4)}", "fanout", channel=connection.default_channel)
    unbound.declare()

    publisher.publish([Outgoing(b"", unbound.name)])
    unbound.delete()


def test_a_message_has_its_properties_and_is_persistent(
    publisher: BrokerPublisher, route: Route, connection: Any
) -> None:
    sent = Outgoing(b"{}", route.exchange.name, headers={"own": 1}, expiration=60.5, message_id="m1")
    publisher.publish([sent])

    with closing(connection.channel()) as channel:
        got = eventually(lambda: channel.basic_get(route.exchange.name, no_ack=True))
    assert got.properties["content_type"] == "application/cloudevents+json"
    assert got.properties["delivery_mode"] == 2
    assert got.properties["expiration"] == "60500"
    assert got.properties["message_id"] == "m1"
    assert got.properties["application_headers"]["own"] == 1
