"""Retries that are late are published again, but not into a long queue in which they may be waiting."""

from datetime import timedelta
from pathlib import Path

import pytest
from pytest_django.fixtures import Settings

from choreography.broker import topology
from choreography.broker.embedded.store import Store
from choreography.broker.embedded.transport import open_store
from choreography.broker.publisher import connect
from choreography.core import clock
from choreography.dead_letters.lost_retries import resend_lost_retries
from choreography.storage.tables import ServiceTables

pytestmark = pytest.mark.django_db(databases="__all__")
LONG = 101


@pytest.fixture
def broker(settings: Settings, tmp_path: Path) -> Store:
    """An embedded broker on which everything is declared."""
    url = f"embedded://{tmp_path / 'broker.sqlite3'}"
    settings.CHOREOGRAPHY = settings.CHOREOGRAPHY | {"BROKER_URL": url}
    with connect() as connection:
        topology.declare(connection)
    return open_store(url)


def late() -> None:
    """A delivery that should be back from the ladder since a second ago."""
    due = clock.now() - timedelta(seconds=1)
    ServiceTables("payments").retries.create(key="late", body=b"{}", due_back_at=due)


def waiting(broker: Store, messages: int) -> None:
    for _ in range(messages):
        broker.publish("", "payments", body=b"{}", content_type=None, content_encoding=None, headers={}, properties={})


def test_what_is_late_is_published_again_though_some_messages_wait(broker: Store) -> None:
    late()
    waiting(broker, LONG - 1)

    assert resend_lost_retries("payments") == 1
    assert broker.size("payments") == LONG
    assert ServiceTables("payments").retries.get().copies == 1


def test_a_long_queue_is_not_made_longer(broker: Store) -> None:
    late()
    waiting(broker, LONG)

    assert resend_lost_retries("payments") == 0
    assert broker.size("payments") == LONG

    broker.purge("payments")

    assert resend_lost_retries("payments") == 1, "it was not forgotten"
