"""Publish with confirmation: a message counts as published only when the broker has confirmed it."""

import struct
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol

from amqp.exceptions import FrameSyntaxError
from kombu import Connection
from kombu.exceptions import KombuError

from choreography.broker import transports
from choreography.core.conf import conf
from choreography.core.errors import Outage, PublishFailed, PublishRefused, Unroutable, one_line
from choreography.events.messages import BATCH_CONTENT_TYPE, CONTENT_TYPE

#: AMQP heartbeat in seconds. Write connections have none unless they ask.
_HEARTBEAT = 30

#: Messages sent before the frames are read that the broker has sent meanwhile: that it blocks, refuses, confirms.
_SENT_BETWEEN_READS = 20

#: Replies of the broker to a message that it will never take: too large, larger than a frame, or malformed.
#: https://www.rabbitmq.com/amqp-0-9-1-reference#constants
_REFUSALS = {311, 406, 501, 502}
#: What encoding a message raises that AMQP can't express.
_UNSENDABLE = (struct.error, UnicodeError, FrameSyntaxError, OverflowError)

_BLOCKED = "the broker blocks publishers: it lacks memory or disk space (rabbitmqctl list_alarms, or its log)"


@dataclass(frozen=True)
class Outgoing:
    """A message on its way to the broker."""

    body: bytes
    exchange: str
    """"" publishes straight to the queue named by ``routing_key``."""
    routing_key: str = ""
    content_type: str | None = CONTENT_TYPE
    headers: Mapping[str, Any] = field(default_factory=dict)
    expiration: float | None = None
    """Seconds after which it expires (sooner than the queue's own TTL)."""
    message_id: str | None = None
    mandatory: bool = False
    """Whether it must reach a queue. What is published straight to a queue always must."""


class Publisher(Protocol):
    """Anything that can publish: the broker, or the in-memory one of ``testing``."""

    def publish(self, messages: Sequence[Outgoing]) -> None:
        """Return when the broker has confirmed every message.

        Raises:
            PublishFailed: at least one is not confirmed; each may or may not have been taken.
            Outage: the broker can't be reached.
            PublishRefused: the broker will never take some of them; the others are confirmed.
        """

    def close(self) -> None:
        """Close the connection."""


_instead: Publisher | None = None


def instead() -> Publisher | None:
    """Where everything is published instead of to the broker, if ``published_to`` says so."""
    return _instead


@contextmanager
def published_to(publisher: Publisher) -> Iterator[None]:
    """Have timers publish to another broker for the duration: that of ``testing``."""
    global _instead
    before, _instead = _instead, publisher
    try:
        yield
    finally:
        _instead = before


def connect(url: str | None = None) -> Connection:
    """A connection to the broker, not yet open. ``url`` defaults to the configured one."""
    transports.register()
    timeout = conf().confirm_timeout
    url = url or conf().broker_url
    if not url.startswith("amqp"):
        return Connection(url)
    options = {"read_timeout": timeout, "write_timeout": timeout, "confirm_publish": False}
    return Connection(url, heartbeat=_HEARTBEAT, connect_timeout=5, transport_options=options)


def reach(connection: Connection, timeout: int = 5) -> None:
    """Open a connection, or fail at once if the broker refuses: by itself kombu would pause for two seconds first.

    Args:
        timeout: seconds after which it is not tried a second time.

    Raises:
        BaseException: one of ``broker_errors``; the broker can't be reached.
    """
    connection.ensure_connection(max_retries=1, interval_start=0, reraise_as_library_errors=False, timeout=timeout)


def broker_errors(connection: Connection) -> tuple[type[BaseException], ...]:
    """What a connection raises when the broker is away or refuses."""
    return (KombuError, *connection.connection_errors, *connection.channel_errors, OSError)


def diagnose(error: BaseException) -> tuple[str, str]:
    """What the broker does, for one of ``broker_errors``, such as "can't be reached: ...", and the remedy."""
    what = one_line(getattr(error, "reply_text", None) or error)  # the broker's own words, without py-amqp's numbers
    match getattr(error, "reply_code", None):
        case 403:
            return f"refuses: {what}", "check the account in BROKER_URL, and its permissions"
        case 406:
            return f"refuses: {what}", "empty and remove the queues that an earlier version made"
        case _:
            return f"can't be reached: {what}", "start it, or check BROKER_URL"


def explain(connection: Connection, error: BaseException) -> str:
    """Name one of ``broker_errors`` and its remedy in one line, without the password in the URL."""
    what, remedy = diagnose(error)
    return f"The broker at {connection.as_uri()} {what}. {remedy[0].upper()}{remedy[1:]}."


class _Refusal(Exception):
    """At least one of the messages will never be taken."""


class BrokerPublisher:
    """Publishes through kombu, pipelined: a whole batch goes out, then its confirms come in.

    On RabbitMQ py-amqp's own confirm is one round trip per message and never compares delivery tags, so the
    confirms are counted here, and after any error the channel is closed, with its unconfirmed tags. The
    embedded broker has stored a message when the call returns. Not for use by two threads at once.

    While the broker blocks publishers (it lacks memory or disk space) the connection is kept, to hear of the end:
    each new one could make the broker take one more copy of the same messages.
    """

    def __init__(self, url: str | None = None) -> None:
        self._url = url
        self._connection: Connection | None = None
        self._unconfirmed: set[int] = set()
        self._refused: set[int] = set()
        self._last_tag = 0
        self._settled_up_to = 0
        self._confirming = False
        self._blocked = False

    def publish(self, messages: Sequence[Outgoing]) -> None:
        try:
            self._publish(messages)
        except _Refusal as refusal:
            if len(messages) == 1:
                raise PublishRefused({0: str(refusal)}) from refusal
            self._publish_in_halves(messages)

    def _publish_in_halves(self, messages: Sequence[Outgoing]) -> None:
        """The broker closes the connection, or the channel, without saying which message it refuses: find it."""
        reasons: dict[int, str] = {}
        half = len(messages) // 2
        for first, part in ((0, messages[:half]), (half, messages[half:])):
            try:
                self.publish(part)
            except PublishRefused as refused:
                reasons |= {first + position: reason for position, reason in refused.reasons.items()}
        if reasons:
            raise PublishRefused(reasons)

    def _publish(self, messages: Sequence[Outgoing]) -> None:
        if not messages:
            return
        if self._blocked:
            self._reconnect_if_unblocked()
        connection = self._open()
        try:
            for number, message in enumerate(messages):
                if number % _SENT_BETWEEN_READS == 0:
                    self._read_frames(connection)
                self._send(connection.default_channel, message)
            self._await_confirms(connection)
        except _UNSENDABLE as error:
            self.close()
            raise _Refusal(f"it can't be sent: {type(error).__name__}") from error
        except broker_errors(connection) as error:
            self.close()
            if getattr(error, "code", None) in _REFUSALS:
                raise _Refusal(f"the broker refuses it: {error}") from error
            raise Outage(
                f"the broker did not take {len(messages)} message(s): {error or type(error).__name__}"
            ) from error
        except PublishFailed:
            self.close()
            raise

    def keep_alive(self) -> None:
        """Answer heartbeats; call it now and then while there is nothing to publish.

        Raises:
            Outage: the connection is dead, or has just been blocked.
        """
        if self._connection is None or not self._connection.supports_heartbeats:
            return
        try:
            self._connection.heartbeat_check()
            while True:
                self._connection.drain_events(timeout=0.001)
        except TimeoutError:
            return
        except broker_errors(self._connection) as error:
            self.close()
            raise Outage(f"the connection to the broker is lost: {error}") from error

    def close(self) -> None:
        connection, self._connection, self._blocked = self._connection, None, False
        if connection is not None:
            connection.collect(socket_timeout=1)

    def _reconnect_if_unblocked(self) -> None:
        """Use a new connection if the broker takes messages again: this one has tags that nobody waits for.

        Raises:
            Outage: it does not yet, or the connection is lost.
        """
        self.keep_alive()
        if self._blocked:
            raise Outage(_BLOCKED)
        self.close()

    def _open(self) -> Connection:
        if self._connection is None:
            connection = connect(self._url)
            try:
                reach(connection)
                self._ask_for_confirms(connection)
            except broker_errors(connection) as error:
                connection.collect(socket_timeout=1)
                raise Outage(f"the broker can't be reached: {error}") from error
            self._connection = connection
        return self._connection

    def _ask_for_confirms(self, connection: Connection) -> None:
        self._unconfirmed.clear()
        self._refused.clear()
        self._last_tag = self._settled_up_to = 0
        self._confirming = connection.transport.driver_type == "amqp"
        if self._confirming:
            channel: Any = connection.default_channel
            channel.confirm_select()
            channel.events["basic_ack"].add(self._on_ack)
            channel.events["basic_nack"].add(self._on_nack)
            channel.events["basic_return"].add(self._on_return)
            line: Any = connection.connection
            line.on_blocked, line.on_unblocked = self._on_blocked, self._on_unblocked
            # The broker knows by now that this client wants to hear when it blocks. With this entry py-amqp would read
            # frames before every message, a third of what a message costs; ``_read_frames`` does it now and then.
            line.client_properties.get("capabilities", {}).pop("connection.blocked", None)

    def _read_frames(self, connection: Connection) -> None:
        """Read the frames that the broker has sent so far, without waiting."""
        try:
            while self._confirming:
                connection.drain_events(timeout=0)
        except TimeoutError:
            return

    def _send(self, channel: Any, message: Outgoing) -> None:
        properties: dict[str, Any] = {"delivery_mode": 2}
        if message.message_id is not None:
            properties["message_id"] = message.message_id
        if message.expiration is not None:
            properties["expiration"] = str(int(message.expiration * 1000))
        prepared = channel.prepare_message(
            message.body,
            content_type=message.content_type,
            content_encoding="utf-8" if message.content_type in (CONTENT_TYPE, BATCH_CONTENT_TYPE) else "binary",
            headers=dict(message.headers),
            properties=properties,
        )
        channel.basic_publish(
            prepared,
            exchange=message.exchange,
            routing_key=message.routing_key,
            mandatory=message.mandatory or not message.exchange,
        )
        if self._confirming:
            self._last_tag += 1
            self._unconfirmed.add(self._last_tag)

    def _await_confirms(self, connection: Connection) -> None:
        deadline = time.monotonic() + conf().confirm_timeout
        while self._unconfirmed:
            remaining = deadline - time.monotonic()
            if remaining <= 0:
                raise PublishFailed(f"{len(self._unconfirmed)} message(s) unconfirmed after {conf().confirm_timeout} s")
            try:
                connection.drain_events(timeout=remaining)
            except TimeoutError:
                continue
        if self._refused:
            refused = len(self._refused)
            self._refused.clear()
            raise PublishFailed(f"the broker refused {refused} message(s): a queue is full or unavailable")

    def _on_ack(self, delivery_tag: int, multiple: bool) -> None:
        self._unconfirmed.difference_update(self._settled(delivery_tag, multiple))

    def _on_nack(self, delivery_tag: int, multiple: bool) -> None:
        settled = self._unconfirmed.intersection(self._settled(delivery_tag, multiple))
        self._refused |= settled
        self._unconfirmed -= settled

    def _on_return(self, error: Exception, exchange: str, routing_key: str, message: Any) -> None:
        missing = f"no queue is bound to {exchange!r}" if exchange else f"there is no queue {routing_key!r}"
        raise Unroutable(f"{missing}: declare the topology") from error

    def _on_blocked(self, *_: Any) -> None:
        self._blocked = True
        raise Outage(_BLOCKED)

    def _on_unblocked(self) -> None:
        self._blocked = False

    def _settled(self, delivery_tag: int, multiple: bool) -> Iterable[int]:
        """The tags that a confirm covers. Those that a ``multiple`` confirm has covered are not looked at again."""
        if not multiple:
            return (delivery_tag,)
        first, self._settled_up_to = self._settled_up_to + 1, delivery_tag
        return range(first, delivery_tag + 1)
