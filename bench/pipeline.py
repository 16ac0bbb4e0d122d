"""Pipelined publishing with py-amqp: a batch goes out, then its confirms come in. As fast as the library gets."""

from collections.abc import Iterable
from typing import Any
from urllib.parse import urlparse

import amqp


class Pipeline:
    """A connection that publishes with confirms. Any refusal ends the program."""

    def __init__(self, connection: Any) -> None:
        self._connection = connection
        self.channel = connection.channel()
        self.channel.confirm_select()
        self.channel.events["basic_ack"].add(self._on_ack)
        self._sent = 0
        self._unconfirmed: set[int] = set()

    def publish(self, messages: Iterable[tuple[str, str]]) -> None:
        """Publish (exchange, body) pairs and return when all are confirmed."""
        for exchange, body in messages:
            message = amqp.Message(body, delivery_mode=2, content_type="application/cloudevents+json")
            self.channel.basic_publish(message, exchange)
            self._sent += 1
            self._unconfirmed.add(self._sent)
        while self._unconfirmed:
            self._connection.drain_events(timeout=30)

    def _on_ack(self, delivery_tag: int, multiple: bool) -> None:
        if multiple:
            self._unconfirmed = {tag for tag in self._unconfirmed if tag > delivery_tag}
        else:
            self._unconfirmed.discard(delivery_tag)


def connect(url: str) -> Any:
    """An open connection to ``amqp://user:password@host:port/vhost``."""
    parts = urlparse(url)
    connection = amqp.Connection(
        f"{parts.hostname}:{parts.port}",
        userid=parts.username or "guest",
        password=parts.password or "guest",
        virtual_host=parts.path[1:],
    )
    connection.connect()
    return connection
