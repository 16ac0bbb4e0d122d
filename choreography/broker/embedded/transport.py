"""The kombu transport of the embedded broker: ``store`` in AMQP's terms, polled for messages."""

import os
import sqlite3
from collections.abc import Callable
from functools import partial
from queue import Empty
from time import monotonic, sleep
from typing import Any, NamedTuple
from urllib.parse import unquote

from amqp.protocol import queue_declare_ok_t
from kombu.log import get_logger
from kombu.message import Message as BaseMessage
from kombu.transport import virtual
from kombu.transport.base import to_rabbitmq_queue_arguments  # type: ignore[attr-defined]  # not in the stubs
from kombu.utils.scheduling import FairCycle
from kombu.utils.uuid import uuid

from choreography.broker.embedded.store import Refused, Store, Stored

logger = get_logger(__name__)

#: Messages delivered in one iteration of Celery's event loop, so that its timers and pool are not delayed.
BURST = 100
#: Bytes of messages a channel may hold before it takes another, however many its prefetch count allows.
MOST_BYTES_HELD = 32 * 2**20

_stores: dict[str, Store] = {}


def open_store(url: str) -> Store:
    """The one store of this process for a URL (see ``choreography.broker.embedded``).

    Raises:
        ValueError: it is no URL of an embedded broker.
    """
    path = "/" + unquote(url.removeprefix("embedded:///")).lstrip("/")
    if not url.startswith("embedded:///") or path == "/":
        raise ValueError(f"{url!r} is no URL of an embedded broker: use embedded:///absolute/path/broker.sqlite3")
    if path.startswith("/:memory:"):
        return _stores.setdefault(path, Store(":memory:"))
    return _stores.setdefault(path, Store(path))


class EmbeddedMessage(virtual.Message):
    """A message as it was published: the body as bytes, nothing added to the properties."""

    def __init__(self, payload: Stored, channel: "Channel", consumer_tag: str | None = None) -> None:
        headers = dict(payload.headers)
        if payload.redelivered:
            headers["x-delivery-count"] = payload.delivery_count  # as RabbitMQ's quorum queues say it
        BaseMessage.__init__(
            self,
            body=payload.body,  # type: ignore[arg-type]  # the stubs know text only
            delivery_tag=payload.tag,
            content_type=payload.content_type,
            content_encoding=payload.content_encoding,
            delivery_info={
                "consumer_tag": consumer_tag,
                "exchange": payload.exchange,
                "routing_key": payload.routing_key,
                "redelivered": payload.redelivered,
            },
            properties=payload.properties,
            channel=channel,
        )
        self.headers = headers  # set afterwards: kombu would decompress the body if they say that it is compressed


class Subscription(NamedTuple):
    queue: str
    no_ack: bool
    callback: Callable[[EmbeddedMessage], Any]


class Channel(virtual.Channel):
    """Holds messages as an owner of its own; its connection is the owner of its exclusive queues."""

    Message = EmbeddedMessage
    connection: "Transport"
    no_ack_consumers: set[str]
    supports_fanout = True
    do_restore = False  # the store puts messages back; kombu would route them anew

    def __init__(self, connection: "Transport", **kwargs: Any) -> None:
        super().__init__(connection, **kwargs)
        self.store = connection.store
        self.owner = self.store.new_owner()
        self.no_ack_consumers = set()
        self._subscriptions: dict[str, Subscription] = {}
        self._sizes: dict[str, int] = {}
        self._bytes_held = 0

    def exchange_declare(
        self,
        exchange: str | None = None,
        type: str = "direct",
        durable: bool = False,
        auto_delete: bool = False,
        arguments: dict[str, Any] | None = None,
        nowait: bool = False,
        passive: bool = False,
    ) -> None:
        if passive:
            self.store.exchange(exchange or "")
        else:
            self.store.declare_exchange(exchange or "", type or "direct")

    def exchange_delete(self, exchange: str, if_unused: bool = False, nowait: bool = False) -> None:
        self.store.delete_exchange(exchange)

    def queue_declare(self, queue: str | None = None, passive: bool = False, **kwargs: Any) -> queue_declare_ok_t:
        name = queue or f"amq.gen-{uuid()}"
        if not passive:
            self.store.declare_queue(
                name,
                kwargs.get("arguments"),
                auto_delete=bool(kwargs.get("auto_delete")),
                exclusive=self.connection.owner if kwargs.get("exclusive") else None,
            )
        found = self.store.queue(name)
        return queue_declare_ok_t(name, found.ready, found.consumers)

    def prepare_queue_arguments(self, arguments: dict[str, Any] | None, **kwargs: Any) -> dict[str, Any] | None:
        prepared: dict[str, Any] = to_rabbitmq_queue_arguments(arguments or {}, **kwargs)
        return prepared

    def queue_delete(self, queue: str, if_unused: bool = False, if_empty: bool = False, **kwargs: Any) -> int:
        return self.store.delete_queue(queue, if_unused=if_unused, if_empty=if_empty)

    def queue_bind(
        self, queue: str, exchange: str | None = None, routing_key: str = "", *_: Any, **kwargs: Any
    ) -> None:
        self.store.bind(queue, exchange or "", routing_key or "")

    def queue_unbind(
        self, queue: str, exchange: str | None = None, routing_key: str = "", *_: Any, **kwargs: Any
    ) -> None:
        self.store.unbind(queue, exchange or "", routing_key or "")

    def queue_purge(self, queue: str, **kwargs: Any) -> int:
        return self.store.purge(queue)

    def list_bindings(self) -> Any:
        return ((b.queue, b.exchange, b.routing_key) for b in self.store.bindings())

    def prepare_message(
        self,
        body: Any,
        priority: int | None = None,
        content_type: str | None = None,
        content_encoding: str | None = None,
        headers: dict[str, Any] | None = None,
        properties: dict[str, Any] | None = None,
    ) -> dict[str, Any]:
        return {
            "body": body.encode() if isinstance(body, str) else body,
            "content_type": content_type,
            "content_encoding": content_encoding,
            "headers": headers or {},
            "properties": {**({"priority": priority} if priority else {}), **(properties or {})},
        }

    def basic_publish(
        self, message: dict[str, Any], exchange: str, routing_key: str, mandatory: bool = False, **kwargs: Any
    ) -> None:
        """Returns when the message is in the file. What no queue takes is dropped, or refused if ``mandatory``."""
        expiration = message["properties"].get("expiration")
        limit = None if expiration is None else int(expiration)
        reached = self.store.publish(exchange or "", routing_key or "", expiration_ms=limit, **message)
        if mandatory and not reached:
            raise Refused(312, f"No queue takes what is sent to {exchange!r} with key {routing_key!r}.")

    def basic_consume(self, queue: str, no_ack: bool, callback: Any, consumer_tag: Any, **kwargs: Any) -> str:
        tag = consumer_tag or uuid()
        self.store.add_consumer(queue, self.owner)
        self._consumers.add(tag)
        self._subscriptions[tag] = Subscription(queue, no_ack, callback)
        if no_ack:
            self.no_ack_consumers.add(tag)
        return tag

    def basic_cancel(self, consumer_tag: str) -> None:
        subscription = self._subscriptions.pop(consumer_tag, None)
        self._consumers.discard(consumer_tag)
        if subscription is not None and self.connection.is_ours():
            self.store.remove_consumer(subscription.queue, self.owner)

    def basic_get(self, queue: str, no_ack: bool = False, **kwargs: Any) -> EmbeddedMessage | None:
        return self._take(queue, no_ack)

    def basic_ack(self, delivery_tag: str, multiple: bool = False) -> None:
        if multiple:
            raise NotImplementedError("the embedded broker acknowledges one message at a time")
        self._settle(delivery_tag, self.store.ack)

    def basic_reject(self, delivery_tag: str, requeue: bool = False) -> None:
        self._settle(delivery_tag, partial(self.store.reject, requeue=requeue))

    def basic_recover(self, requeue: bool = False) -> None:
        raise NotImplementedError("close the channel, or reject with requeue: either puts messages back")

    def basic_qos(self, prefetch_size: int = 0, prefetch_count: int = 0, apply_global: bool = False) -> None:
        super().basic_qos(prefetch_size, prefetch_count, apply_global)
        self.connection.look_again()

    def drain_events(self, timeout: float | None = None, callback: Any = None) -> None:
        """Hand one message to its consumer, the consumers taking turns. Raises Empty where there is none."""
        for tag, subscription in list(self._subscriptions.items()):
            if not (subscription.no_ack or (self.qos.can_consume() and self._bytes_held < MOST_BYTES_HELD)):
                continue
            message = self._take(subscription.queue, subscription.no_ack, tag)
            if message is not None:
                self._subscriptions[tag] = self._subscriptions.pop(tag)
                subscription.callback(message)
                return
        raise Empty

    def close(self) -> None:
        """What it holds goes back to its queue at once."""
        if self.closed:
            return
        self._subscriptions.clear()  # they leave with their owner
        if self.connection.is_ours():
            self.store.leave(self.owner)
        super().close()

    def _take(self, queue: str, no_ack: bool, consumer_tag: str | None = None) -> EmbeddedMessage | None:
        stored = self.store.get([queue], None if no_ack else self.owner)
        if stored is None:
            return None
        message = EmbeddedMessage(stored, self, consumer_tag)
        if not no_ack:
            self.qos.append(message, stored.tag)
            self._sizes[stored.tag] = len(stored.body)
            self._bytes_held += len(stored.body)
        return message

    def _settle(self, tag: str, settle: Callable[[str], bool]) -> None:
        try:
            held = settle(tag)
        except sqlite3.OperationalError as error:
            # Celery logs this and goes on. Only with its connection does the delivery go back to the queue.
            if not self.closed:
                self.connection.broken = error
            raise
        self.qos.ack(tag)
        self._bytes_held -= self._sizes.pop(tag, 0)
        if not held:
            logger.warning("too late to settle delivery %s: its channel was closed, the message comes again", tag)


class Transport(virtual.Transport):
    """A connection: nothing but an owner, and how to wait."""

    Channel = Channel
    cycle: FairCycle
    driver_type = "embedded"
    driver_name = "sqlite3"
    can_parse_url = True
    polling_interval = 0.02
    connection_errors = (*virtual.Transport.connection_errors, sqlite3.OperationalError, OSError)
    recoverable_connection_errors = (sqlite3.OperationalError, OSError)
    recoverable_channel_errors = ()
    implements = virtual.Transport.implements.extend(
        asynchronous=True, exchange_type=frozenset({"direct", "topic", "fanout"})
    )

    def __init__(self, client: Any, **kwargs: Any) -> None:
        super().__init__(client, **kwargs)
        self.store = open_store(client.hostname)
        self.owner = ""
        #: Why this connection can't go on; whoever waits for messages is told.
        self.broken: Exception | None = None
        self._pid = os.getpid()
        self._quiet: tuple[tuple[int, int, int], float] | None = None
        self._leave_loop: Callable[[], None] = _nothing
        self._next_turn: int | None = None

    def establish_connection(self) -> "Transport":
        self.owner, self.broken = self.store.new_owner(), None
        self.store.version()  # fails here where the file can't be used
        return super().establish_connection()

    def close_connection(self, connection: Any) -> None:
        self._leave_loop()
        super().close_connection(connection)
        if self.owner and self.is_ours():
            self.store.leave(self.owner)

    def drain_events(self, connection: Any, timeout: float | None = None) -> None:  # type: ignore[override]
        """Hand out one message, waiting up to ``timeout`` seconds for it. Raises TimeoutError without one."""
        deadline = None if timeout is None else monotonic() + timeout
        while not self._hand_out():
            left = self.polling_interval if deadline is None else deadline - monotonic()
            if left <= 0:
                raise TimeoutError  # which is what socket.timeout is
            sleep(min(left, self.polling_interval))

    def register_with_event_loop(self, connection: Any, loop: Any) -> None:
        """Look for messages on every turn of the loop. The timer only sees to it that there are turns.

        In the timer itself Celery would log a failing consumer and go on; on a turn it fails as with any other broker.
        """
        timer = loop.call_repeatedly(self.polling_interval, _nothing)
        reader, writer = os.pipe()
        self._next_turn = writer
        loop.add_reader(reader, os.read, reader, 4096)
        loop.on_tick.add(self._on_tick)

        def leave() -> None:
            timer.cancel()
            loop.on_tick.discard(self._on_tick)
            loop.remove_reader(reader)
            os.close(reader)
            os.close(writer)
            self._next_turn, self._leave_loop = None, _nothing

        self._leave_loop = leave

    def is_ours(self) -> bool:
        """Whether this connection was made in this process: a forked child must not end its parent's."""
        return self._pid == os.getpid()

    def look_again(self) -> None:
        """Something changed that the store doesn't know of."""
        self._quiet = None

    def driver_version(self) -> str:
        return sqlite3.sqlite_version

    def as_uri(self, uri: str, include_password: bool = False, mask: str = "**") -> str:
        return uri

    def _on_tick(self) -> None:
        handed_out = 0
        while handed_out < BURST and self._hand_out():
            handed_out += 1
        if handed_out and self._next_turn is not None:
            # Acknowledgements may have come of it and wait for the next turn: it must not be slept away.
            os.write(self._next_turn, b".")

    def _hand_out(self) -> bool:
        """Hand out one message, if there is one. Costs next to nothing while nothing was written and nothing is due."""
        if self.broken is not None:
            raise self.broken
        self.store.sweep()
        version = self.store.version()
        if self._quiet is not None and self._quiet[0] == version and self.store.now() < self._quiet[1]:
            return False
        try:
            self.cycle.get(None)
        except Empty:
            due = self.store.next_due()
            self._quiet = version, float("inf") if due is None else due
            return False
        return True


def _nothing() -> None:
    pass
