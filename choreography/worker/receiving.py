"""What a worker receives: plain events, and the ticks of timers."""

from typing import Any

from choreography.broker import topology
from choreography.broker.decoding import bounded
from choreography.core import clock
from choreography.core.conf import conf
from choreography.events.messages import in_structured_mode
from choreography.inbox.deliveries import Delivery, reason_of_death

#: The exchange through which each timer's ticks come, by the timer's name.
Ticks = dict[str, str]


def read_delivery(message: Any, queue: str) -> Delivery:
    """A message as a delivery to the service whose queue it came from.

    Args:
        queue: its name; the part before the first dot, behind the namespace, names the service.
    """
    service = queue.removeprefix(conf().namespace).partition(".")[0]
    body, content_type, given = in_structured_mode(_bytes(message.body), message.content_type, message.headers or {})
    headers = dict(given)
    is_dead = queue == topology.dead_queue_name(service)
    delivery = Delivery(
        service,
        body,
        content_type,
        headers,
        given_up=reason_of_death(headers) if is_dead else None,
        message=message,
        received_at=clock.now(),
    )
    delivery.exclusive = delivery.is_suspect
    return delivery


def is_tick(message: Any, ticks: Ticks) -> bool:
    """Beat's messages are the only ones of Celery's own kind. Anything else is judged as an event."""
    headers = message.headers or {}
    exchange = ticks.get(str(headers.get("task")))
    return "id" in headers and exchange is not None and message.delivery_info.get("exchange") == exchange


def is_expired_tick(message: Any, ticks: Ticks) -> bool:
    """A tick that nobody took in time arrives through the dead-letter exchange. There is nothing left to do for it."""
    headers = message.headers or {}
    match headers.get("x-death"):
        case [{"reason": "expired", "exchange": exchange}, *_]:
            return bool(exchange == ticks.get(str(headers.get("task"))))
    return False


def keep_raw(channel: Any) -> None:
    """Have bodies arrive as the bytes that were sent, and headers so that they can be sent again.

    py-amqp would decode what claims a text encoding, and kombu decompress what claims to be compressed, however large
    that gets, before anyone could judge it.
    """
    to_message = channel.message_to_python

    def without_decompression(raw: Any) -> Any:
        headers = raw.properties.get("application_headers") or {}
        compression = headers.pop("compression", None)
        message = to_message(raw)
        if compression is not None:
            message.headers["compression"] = compression
        message.headers = bounded(message.headers)
        return message

    channel.auto_decode = False
    channel.message_to_python = without_decompression


def _bytes(body: Any) -> bytes:
    return body.encode() if isinstance(body, str) else bytes(body or b"")
