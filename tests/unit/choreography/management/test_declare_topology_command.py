"""``manage.py declare_topology``: what it says when the broker can't be used, and the remedy."""

from collections.abc import Iterator
from urllib.parse import urlsplit

import pytest
from django.core.management import CommandError, call_command
from kombu import Connection, Queue
from pytest_django.fixtures import Settings

from choreography.broker import topology
from choreography.broker.publisher import connect


@pytest.fixture
def names_of_its_own(settings: Settings, rabbitmq_url: str, namespace: str) -> Iterator[Connection]:
    """A connection to a broker on which this project has declared nothing yet."""
    settings.CHOREOGRAPHY = settings.CHOREOGRAPHY | {"BROKER_URL": rabbitmq_url, "NAMESPACE": namespace}
    with connect() as connection:
        yield connection
        topology.delete(connection)


def test_a_broker_that_is_not_there_is_named_with_the_remedy(settings: Settings) -> None:
    settings.CHOREOGRAPHY = settings.CHOREOGRAPHY | {"BROKER_URL": "amqp://guest:guest@127.0.0.1:1//"}

    with pytest.raises(CommandError, match=r"^The broker at amqp://guest:\*\*@127\.0\.0\.1:1// can't be reached: "):
        call_command("declare_topology")


@pytest.mark.rabbitmq
def test_a_wrong_password_is_named_with_the_remedy(settings: Settings, rabbitmq_url: str) -> None:
    address = urlsplit(rabbitmq_url).netloc.rpartition("@")[2]
    settings.CHOREOGRAPHY = settings.CHOREOGRAPHY | {"BROKER_URL": f"amqp://guest:wrong@{address}//"}

    with pytest.raises(
        CommandError, match=r"refuses: .+ Check the account in BROKER_URL, and its permissions\.$"
    ) as raised:
        call_command("declare_topology")

    assert "ACCESS_REFUSED" in str(raised.value)
    assert "wrong" not in str(raised.value)


@pytest.mark.rabbitmq
def test_a_queue_of_another_kind_is_named_with_the_remedy(names_of_its_own: Connection) -> None:
    name = topology.queue_name("payments")
    with names_of_its_own.channel() as channel:
        Queue(name, channel=channel, durable=True).declare()

    with pytest.raises(CommandError, match=r" refuses: .+ Empty and remove the queues that an earlier version"):
        call_command("declare_topology")
