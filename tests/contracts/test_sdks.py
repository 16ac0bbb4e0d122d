"""The official SDKs of CloudEvents exchange events with a service, both ways, in every mode."""

import json
from collections.abc import Callable, Iterator
from typing import Any
from uuid import uuid4

import pika
import pytest
from cloudevents.core.bindings import amqp, rabbitmq
from cloudevents.core.formats.json import JSONFormat
from cloudevents.core.v1.event import CloudEvent

from choreography.events.messages import BATCH_CONTENT_TYPE
from tests.processes import RunningShop, running_shop
from tests.servers import a_corner_of_the_servers

pytestmark = [pytest.mark.processes, pytest.mark.rabbitmq, pytest.mark.postgresql]

PLACED, AUTHORIZED = "orders.order_placed.v2", "payments.payment_authorized.v1"
STRUCTURED = "application/cloudevents+json"
JSON: Any = JSONFormat()


@pytest.fixture(scope="module")
def payments(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningShop]:
    """Payments alone, with a worker and a relay."""
    with (
        a_corner_of_the_servers(request) as corner,
        running_shop(tmp_path_factory.mktemp("payments"), SHOP_SERVICES="payments", **corner) as shop,
    ):
        shop.start("relay-payments", "worker-payments")
        yield shop


def url_of(shop: RunningShop) -> str:
    """As pika and amqplib read it: they take ``//`` for a virtual host without a name."""
    return shop.environment["BROKER_URL"].removesuffix("//") + "/%2F"


def in_structured_mode(event: CloudEvent) -> tuple[bytes, pika.BasicProperties]:
    message = amqp.to_structured(event, JSON)
    return message.application_data, pika.BasicProperties(message.properties["content-type"])


def in_binary_mode(event: CloudEvent) -> tuple[bytes, pika.BasicProperties]:
    message = amqp.to_binary(event, JSON)
    headers = message.application_properties
    return message.application_data, pika.BasicProperties(message.properties["content-type"], headers=headers)


def in_binary_mode_of_rabbitmq(event: CloudEvent) -> tuple[bytes, pika.BasicProperties]:
    message = rabbitmq.to_binary(event, JSON)
    return message.body, pika.BasicProperties(message.content_type, headers=message.headers)


def in_a_batch(event: CloudEvent) -> tuple[bytes, pika.BasicProperties]:
    other = CloudEvent(event.get_attributes() | {"id": str(uuid4()), "subject": str(uuid4())}, event.get_data())
    return b"[" + JSON.write(other) + b", " + JSON.write(event) + b"]", pika.BasicProperties(BATCH_CONTENT_TYPE)


@pytest.mark.parametrize(
    "write", [in_structured_mode, in_binary_mode, in_binary_mode_of_rabbitmq, in_a_batch], ids=lambda it: it.__name__
)
def test_the_sdk_for_python(
    payments: RunningShop, write: Callable[[CloudEvent], tuple[bytes, pika.BasicProperties]]
) -> None:
    namespace = payments.environment["CHOREOGRAPHY_NAMESPACE"]
    data = {"payment_token": "tok_approved", "total": 4200, "currency": "KRW"}
    attributes = {"type": PLACED, "source": "/python", "subject": str(uuid4()), "datacontenttype": "application/json"}
    placed = CloudEvent(attributes, data)
    connection = pika.BlockingConnection(pika.URLParameters(url_of(payments)))
    try:
        channel = connection.channel()
        queue = channel.queue_declare("", exclusive=True).method.queue
        channel.queue_bind(queue, namespace + AUTHORIZED)
        channel.confirm_delivery()
        body, properties = write(placed)
        channel.basic_publish(namespace + PLACED, "", body, properties)

        heard = next(it for it in heard_by(channel, queue) if it.get_subject() == placed.get_subject())
    finally:
        connection.close()

    assert heard.get_attributes()["causationid"] == placed.get_id()
    assert heard.get_data() == {"amount": 4200, "currency": "KRW"}


def heard_by(channel: Any, queue: str) -> Iterator[Any]:
    """What arrives within a minute, as the SDK reads it."""
    for method, properties, body in channel.consume(queue, inactivity_timeout=60, auto_ack=True):
        assert method is not None, "nothing was heard"
        if properties.content_type == BATCH_CONTENT_TYPE:  # the SDK has no function for it
            bodies = [json.dumps(each).encode() for each in json.loads(body)]
        else:
            bodies = [body]
        for each in bodies:
            yield rabbitmq.from_rabbitmq_event(
                rabbitmq.RabbitMQMessage(headers=properties.headers or {}, content_type=STRUCTURED, body=each)
            )


@pytest.mark.parametrize("mode", ["structured", "binary", "batched"])
def test_the_sdk_for_javascript(payments: RunningShop, node: Callable[..., str], mode: str) -> None:
    order = str(uuid4())

    words = json.loads(
        node("exchange.mjs", url_of(payments), payments.environment["CHOREOGRAPHY_NAMESPACE"], order, mode)
    )

    assert words["heard"]["subject"] == order
    assert words["heard"]["causationid"] == words["sent"]["id"]
    assert words["heard"]["data"] == {"amount": 4200, "currency": "KRW"}


def test_nothing_was_parked(payments: RunningShop) -> None:
    assert payments.ask("dead_letters", service="payments") == []
