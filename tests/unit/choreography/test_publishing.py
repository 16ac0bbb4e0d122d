"""Published means: the broker has said so. On RabbitMQ, through a line that can be cut and muted."""

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
from choreography.core.errors import Outage, PublishFailed, Transient
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


class Place:
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
    """The stubs lack what a channel can do."""
    with Connection(rabbitmq_url) as connection:
        yield connection


@pytest.fixture
def place(connection: Any) -> Iterator[Place]:
    place = Place(connection)
    yield place
    place.delete()


@pytest.fixture
def full_place(connection: Any) -> Iterator[Place]:
    """Takes one message and refuses the next."""
    place = Place(connection, **{"x-queue-type": "classic", "x-max-length": 1, "x-overflow": "reject-publish"})
    yield place
    place.delete()


def test_a_thousand_messages_are_there_when_publish_returns(publisher: BrokerPublisher, place: Place) -> None:
    publisher.publish([place.message(str(number)) for number in range(1000)])

    eventually(lambda: place.size() == 1000)
    assert [place.next() for _ in range(3)] == ["0", "1", "2"]


def test_nothing_to_publish_needs_no_broker() -> None:
    BrokerPublisher("amqp://127.0.0.1:1//").publish([])


def test_a_broker_that_can_not_be_reached_is_an_outage() -> None:
    publisher = BrokerPublisher("amqp://127.0.0.1:1//")

    with pytest.raises(Outage, match="can't be reached"):
        publisher.publish([Outgoing(b"", "anywhere")])


def test_a_refused_message_fails_the_batch(publisher: BrokerPublisher, full_place: Place, place: Place) -> None:
    with pytest.raises(PublishFailed, match="refused"):
        publisher.publish([full_place.message(), place.message(), full_place.message(), full_place.message()])

    publisher.publish([place.message("goes on")])


def test_many_messages_answered_at_once_are_told_apart(publisher: BrokerPublisher) -> None:
    """As RabbitMQ may answer: several by one, refusals between, a tag that a later answer covers again."""
    publisher._unconfirmed = set(range(1, 11))
    publisher._on_ack(3, multiple=False)
    publisher._on_ack(4, multiple=True)
    publisher._on_nack(6, multiple=False)
    publisher._on_ack(7, multiple=True)
    publisher._on_ack(8, multiple=False)
    publisher._on_nack(9, multiple=True)

    assert publisher._unconfirmed == {10}
    assert publisher._refused == {6, 9}


def test_answers_cost_the_same_however_many_wait(publisher: BrokerPublisher) -> None:
    publisher._unconfirmed = set(range(1, 1001))

    looked_at = sum(len(list(publisher._answered(tag, True))) for tag in range(1, 1001))

    assert looked_at == 1000


def test_a_missing_queue_is_heard_of_before_the_batch_is_out(publisher: BrokerPublisher, place: Place) -> None:
    """What the broker says while messages go out is not left lying until all have gone."""
    nowhere = Outgoing(b"", exchange="", routing_key=f"{place.exchange.name}.missing")
    with pytest.raises(PublishFailed, match="no queue"):
        publisher.publish([nowhere, *[place.message()] * 20_000])
    assert publisher._last_tag < 20_000


def test_silence_is_no_confirmation(publisher: BrokerPublisher, place: Place, line: Proxy) -> None:
    publisher.publish([place.message("confirmed")])
    line.stall("to_client")

    with pytest.raises(Transient):
        publisher.publish([place.message("taken, but who knows")])


def test_a_late_confirmation_does_not_count_for_the_next_message(
    publisher: BrokerPublisher, place: Place, full_place: Place, line: Proxy
) -> None:
    publisher.publish([full_place.message()])
    line.stall("to_client")
    with pytest.raises(Transient):
        publisher.publish([place.message("confirmed too late")])
    line.flow()

    with pytest.raises(PublishFailed, match="refused 1"):
        publisher.publish([full_place.message()])


def test_a_cut_line_is_an_outage_and_the_next_attempt_takes_a_new_one(
    publisher: BrokerPublisher, place: Place, line: Proxy
) -> None:
    publisher.publish([place.message("before")])
    line.cut()

    with pytest.raises(Outage):
        publisher.publish([place.message("during")])
    publisher.publish([place.message("after")])

    assert place.next() == "before"
    assert place.next() == "after"


def test_keeping_alive_finds_a_cut_line(publisher: BrokerPublisher, place: Place, line: Proxy) -> None:
    publisher.publish([place.message("before")])
    publisher.keep_alive()
    line.cut()

    with pytest.raises(Outage):
        eventually(publisher.keep_alive, within=10)
    publisher.publish([place.message("after")])


def test_keeping_alive_needs_no_connection(publisher: BrokerPublisher) -> None:
    publisher.keep_alive()


def test_a_missing_exchange_is_no_silent_loss(publisher: BrokerPublisher, place: Place) -> None:
    with pytest.raises(Transient):
        publisher.publish([place.message(), Outgoing(b"", f"{place.exchange.name}.missing")])

    publisher.publish([place.message("goes on")])


def test_a_missing_queue_is_no_silent_loss(publisher: BrokerPublisher, place: Place) -> None:
    with pytest.raises(PublishFailed, match="no queue"):
        publisher.publish([Outgoing(b"", exchange="", routing_key=f"{place.exchange.name}.missing")])


@pytest.mark.parametrize("url", ["rabbitmq", "embedded"])
def test_an_event_that_someone_must_hear_is_not_lost_with_their_queue(
    publisher: BrokerPublisher, place: Place, url: str, tmp_path: Path
) -> None:
    if url == "embedded":
        publisher = BrokerPublisher(f"embedded://{tmp_path / 'broker.sqlite3'}")
        place.exchange(publisher._open().default_channel).declare()
    else:
        place.lose_queue()
    publisher.publish([place.message()])

    with pytest.raises(Transient, match=f"[Nn]o queue .* '{place.exchange.name}'"):
        publisher.publish([replace(place.message(), mandatory=True)])
    publisher.close()


def test_an_event_that_nobody_hears_is_published_all_the_same(publisher: BrokerPublisher, connection: Any) -> None:
    lonely = Exchange(f"test-{secrets.token_hex(4)}", "fanout", channel=connection.default_channel)
    lonely.declare()

    publisher.publish([Outgoing(b"", lonely.name)])
    lonely.delete()


def test_what_was_sent_says_what_it_is_and_stays(publisher: BrokerPublisher, place: Place, connection: Any) -> None:
    sent = Outgoing(b"{}", place.exchange.name, headers={"own": 1}, expiration=60.5, message_id="m1")
    publisher.publish([sent])

    with closing(connection.channel()) as channel:
        got = eventually(lambda: channel.basic_get(place.exchange.name, no_ack=True))
    assert got.properties["content_type"] == "application/cloudevents+json"
    assert got.properties["delivery_mode"] == 2
    assert got.properties["expiration"] == "60500"
    assert got.properties["message_id"] == "m1"
    assert got.properties["application_headers"]["own"] == 1
