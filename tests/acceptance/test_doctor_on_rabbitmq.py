"""What the doctor learns from RabbitMQ's management API: bindings and policies."""

from collections.abc import Iterator
from typing import Any

import pytest
from pytest_django.fixtures import Settings

from choreography.broker import topology
from choreography.broker.publisher import connect
from choreography.operations import doctor
from tests.processes import eventually
from tests.servers import RabbitMQ, own_rabbitmq

pytestmark = [
    pytest.mark.django_db(databases="__all__"),
    pytest.mark.processes,
    pytest.mark.slow,
    pytest.mark.rabbitmq,
]


@pytest.fixture
def node(settings: Settings) -> Iterator[RabbitMQ]:
    """A node with everything declared."""
    with own_rabbitmq(has_management=True) as node:
        urls = {"BROKER_URL": node.url, "RABBITMQ_MANAGEMENT_URL": node.management_url}
        settings.CHOREOGRAPHY = settings.CHOREOGRAPHY | urls
        with connect() as connection:
            topology.declare(connection)
        yield node


def found(about: str) -> list[str]:
    return [finding.what for finding in doctor.findings() if finding.about == about]


def test_bindings_and_policies_are_found(node: RabbitMQ) -> None:
    # The management API shows what was declared a moment later.
    eventually(lambda: found("payments") == ["no worker reads it"], 30, lambda: str(found("payments")))
    node.ctl("set_policy", "short", "^payments$", '{"max-length": 10, "queue-leader-locator": "balanced"}')
    with connect() as connection:
        channel: Any = connection.channel()
        channel.queue_unbind("payments", "orders.order_placed.v2")

    told = [
        "it is not bound to orders.order_placed.v2",
        "no worker reads it",
        "the policy short sets max-length 10: the broker may drop events, or move them where nobody looks",
    ]
    eventually(lambda: sorted(found("payments")) == told, 30, lambda: str(found("payments")))
    assert found("orders") == ["no worker reads it"]
