"""Messages as a program sends them that shares nothing with the shop but the broker."""

import json
import struct
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import amqp
from kombu import Connection

from choreography.broker import embedded
from choreography.events.messages import CONTENT_TYPE
from tests.processes import RunningShop


@dataclass(frozen=True)
class Wire:
    """A message as anyone may send it. ``None`` leaves a property out."""

    body: bytes
    exchange: str = "orders.order_placed.v2"
    routing_key: str = ""
    content_type: str | None = CONTENT_TYPE
    content_encoding: str | None = None
    headers: dict[str, Any] = field(default_factory=dict)


class Raw(amqp.Message):
    """A message with properties as AMQP has them on the line: the flags, and what they announce."""

    def __init__(self, body: bytes, properties: bytes) -> None:
        super().__init__(body)
        self._properties = properties

    def _serialize_properties(self) -> bytes:
        return self._properties


def nested_lists(depth: int) -> bytes:
    """A field of AMQP: lists in lists."""
    value = b"V"
    for _ in range(depth):
        value = b"A" + struct.pack(">I", len(value)) + value
    return value


class Sender:
    """Sends to a shop's broker. Create it with ``sender``."""

    def __init__(self, connection: Connection, namespace: str) -> None:
        self._connection: Any = connection  # the stubs lack what a channel can do
        self._namespace = namespace

    def send(self, wire: Wire) -> None:
        channel = self._connection.default_channel
        message = channel.prepare_message(
            wire.body,
            content_type=wire.content_type,
            content_encoding=wire.content_encoding,
            headers=dict(wire.headers),
            properties={"delivery_mode": 2},
        )
        channel.basic_publish(message, exchange=self._namespace + wire.exchange, routing_key=wire.routing_key)

    def send_raw(self, body: bytes, properties: bytes, exchange: str = "orders.order_placed.v2") -> None:
        """Send a message with properties as bytes: the flags and what they announce, as AMQP has them on the line."""
        message = Raw(body, properties)
        self._connection.default_channel.basic_publish(message, exchange=self._namespace + exchange, routing_key="")

    def delete_queue(self, queue: str) -> None:
        with self._connection.channel() as channel:
            channel.queue_delete(self._namespace + queue)

    def delete_exchange(self, exchange: str) -> None:
        with self._connection.channel() as channel:
            channel.exchange_delete(self._namespace + exchange)

    def send_event(self, document: dict[str, Any], **properties: Any) -> None:
        self.send(Wire(text(document), exchange=document["type"], **properties))

    def purge(self, queue: str) -> None:
        with self._connection.channel() as channel:
            channel.queue_purge(self._namespace + queue)

    def size(self, queue: str) -> int:
        """How many messages are ready in a queue."""
        with self._connection.channel() as channel:
            return int(channel.queue_declare(self._namespace + queue, passive=True).message_count)

    def take_and_put_back(self, queue: str) -> bool:
        """Take what comes next from a queue and put it back, as a worker that dies does. False: there is nothing."""
        with self._connection.channel() as channel:
            message = channel.basic_get(self._namespace + queue, no_ack=False)
            if message is not None:
                channel.basic_reject(message.delivery_tag, requeue=True)
            return message is not None


@contextmanager
def sender(shop: RunningShop) -> Iterator[Sender]:
    """A connection to a shop's broker."""
    embedded.register()
    url = shop.environment["BROKER_URL"] or f"embedded://{shop.environment['DATA_DIR']}/broker.sqlite3"
    # RabbitMQ may drop what was not confirmed when the connection is closed right after.
    with Connection(url, transport_options={"confirm_publish": True}) as connection:
        yield Sender(connection, shop.environment["CHOREOGRAPHY_NAMESPACE"])


def event(event_type: str = "orders.order_placed.v2", **changes: Any) -> dict[str, Any]:
    """A CloudEvent, by default one that payments can handle. A change to ``None`` leaves that attribute out."""
    envelope = {
        "specversion": "1.0",
        "id": str(uuid.uuid4()),
        "type": event_type,
        "source": event_type.partition(".")[0],
        "subject": str(uuid.uuid4()),
        "time": "2026-01-01T00:00:00Z",
        "datacontenttype": "application/json",
        "data": {"payment_token": "tok_approved", "total": 1999, "currency": "EUR"},
    }
    return {key: value for key, value in (envelope | changes).items() if value is not None}


def text(document: Any) -> bytes:
    return json.dumps(document).encode()
