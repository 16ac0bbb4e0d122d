"""Programs that know nothing of Celery, kombu or our code take part: they speak AMQP and CloudEvents, and no more.

What they do stands in ``FOREIGN_ORDERS``: a script in a process of its own, which imports pika and nothing of ours.
"""

import json
import subprocess
import sys
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest

from choreography.broker.topology import PUBLISHED
from tests.processes import RunningShop, running_shop
from tests.servers import a_corner_of_the_servers

pytestmark = [pytest.mark.processes, pytest.mark.rabbitmq, pytest.mark.postgresql]

#: Plays orders: announces an order, hears in a queue of its own what payments says of it, prints that as JSON.
FOREIGN_ORDERS = """
import json, sys, uuid
import pika

url, namespace, order_id, token, mode = sys.argv[1:]
heard = ["payments.payment_authorized.v1", "payments.payment_declined.v1"]
connection = pika.BlockingConnection(pika.URLParameters(url))
channel = connection.channel()
queue = channel.queue_declare("", exclusive=True).method.queue
for event_type in heard:
    channel.queue_bind(queue, namespace + event_type)

channel.confirm_delivery()
order_placed = {
    "specversion": "1.0",
    "id": str(uuid.uuid4()),
    "type": "orders.order_placed.v2",
    "source": "a program in another language",
    "subject": order_id,
    "time": "2026-01-01T12:00:00Z",
    "datacontenttype": "application/json",
    "data": {"payment_token": token, "total": 4200, "currency": "KRW", "a field we never heard of": [1, 2]},
}
if mode == "structured":
    body = order_placed
    properties = pika.BasicProperties(content_type="application/cloudevents+json", delivery_mode=2)
else:
    body = order_placed["data"]
    names = order_placed.keys() - {"data", "datacontenttype"}
    headers = {"cloudEvents:" + name: order_placed[name] for name in names}
    properties = pika.BasicProperties(content_type="application/json", delivery_mode=2, headers=headers)
channel.basic_publish(namespace + "orders.order_placed.v2", "", json.dumps(body).encode(), properties)

for method, properties, body in channel.consume(queue, inactivity_timeout=60):
    if method is None:
        sys.exit("nothing was heard")
    event = json.loads(body)
    if event["subject"] == order_id:
        break
print(json.dumps({
    "sent": order_placed,
    "heard": event,
    "exchange": method.exchange,
    "content_type": properties.content_type,
    "headers": properties.headers,
}))
connection.close()
"""

REQUIRED = {"specversion", "id", "source", "type"}
#: CloudEvents 1.0.2, section "Naming conventions": lower-case letters and digits.
NAMES = "abcdefghijklmnopqrstuvwxyz0123456789"


@pytest.fixture(scope="module")
def payments(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningShop]:
    """Payments alone, with a worker and a relay."""
    with (
        a_corner_of_the_servers(request) as corner,
        running_shop(
            tmp_path_factory.mktemp("payments"),
            SHOP_SERVICES="payments",
            SENT_ALONE="payments.payment_authorized.v1,payments.payment_declined.v1",  # it does not take batches
            **corner,
        ) as shop,
    ):
        shop.start("relay-payments", "worker-payments")
        yield shop


def exchange_words(payments: RunningShop, token: str, folder: Path, mode: str = "structured") -> dict[str, Any]:
    """Run the foreign program once, where it can't find our code."""
    program = folder / "orders.py"
    program.write_text(FOREIGN_ORDERS)
    broker, namespace = payments.environment["BROKER_URL"], payments.environment["CHOREOGRAPHY_NAMESPACE"]
    # pika reads "//" as a virtual host named "/", as AMQP URLs are meant, only if it is escaped.
    arguments = [broker.removesuffix("//") + "/%2F", namespace, str(uuid4()), token, mode]
    done = subprocess.run(
        [sys.executable, "-I", str(program), *arguments], cwd=folder, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    words: dict[str, Any] = json.loads(done.stdout)
    return words


@pytest.mark.parametrize("mode", ["structured", "binary"])
@pytest.mark.parametrize(
    ("token", "event_type", "data"),
    [
        ("tok_approved", "payments.payment_authorized.v1", {"amount": 4200, "currency": "KRW"}),
        ("tok_declined_funds", "payments.payment_declined.v1", {"reason": "insufficient_funds"}),
    ],
)
def test_a_foreign_program_orders_and_hears_of_the_payment(
    payments: RunningShop, tmp_path: Path, token: str, event_type: str, data: dict[str, Any], mode: str
) -> None:
    words = exchange_words(payments, token, tmp_path, mode)
    sent, heard = words["sent"], words["heard"]

    assert words["content_type"] == "application/cloudevents+json"
    assert set(words["headers"]) == {PUBLISHED}, "nothing of Celery, and nothing that anybody needs"
    assert words["exchange"] == payments.environment["CHOREOGRAPHY_NAMESPACE"] + event_type
    assert heard["specversion"] == "1.0"
    assert heard.keys() >= REQUIRED
    assert all(set(name) <= set(NAMES) for name in heard)
    assert UUID(heard["id"]).version == 7
    assert datetime.fromisoformat(heard["time"]).utcoffset() is not None
    assert (heard["source"], heard["type"], heard["subject"]) == ("payments", event_type, sent["subject"])
    assert heard["causationid"] == sent["id"]
    assert heard["data"] == data


def test_nothing_of_the_foreign_event_was_parked(payments: RunningShop, tmp_path: Path) -> None:
    words = exchange_words(payments, "tok_approved", tmp_path)

    assert words["sent"]["id"] in payments.ask("heard", service="payments")
    assert payments.ask("dead_letters", service="payments") == []
