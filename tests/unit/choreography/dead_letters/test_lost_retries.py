"""Retries that are late are published again, but not into a long queue in which they may be waiting."""

from datetime import timedelta

import pytest

from choreography.broker.embedded.store import Store
from choreography.core import clock
from choreography.dead_letters.lost_retries import resend_lost_retries
from choreography.storage.tables import ServiceTables

pytestmark = pytest.mark.django_db(databases="__all__")
LONG = 101


def late() -> None:
    """A delivery that should be back from the ladder since a second ago."""
    due = clock.now() - timedelta(seconds=1)
    ServiceTables("payments").retries.create(key="late", body=b"{}", due_back_at=due)


def waiting(embedded_broker: Store, messages: int) -> None:
    for _ in range(messages):
        embedded_broker.publish(
            "", "payments", body=b"{}", content_type=None, content_encoding=None, headers={}, properties={}
        )


def test_what_is_late_is_published_again_though_some_messages_wait(embedded_broker: Store) -> None:
    late()
    waiting(embedded_broker, LONG - 1)

    assert resend_lost_retries("payments") == 1
    assert embedded_broker.size("payments") == LONG
    assert ServiceTables("payments").retries.get().copies == 1


def test_a_long_queue_is_not_made_longer(embedded_broker: Store) -> None:
    late()
    waiting(embedded_broker, LONG)

    assert resend_lost_retries("payments") == 0
    assert embedded_broker.size("payments") == LONG

    embedded_broker.purge("payments")

    assert resend_lost_retries("payments") == 1, "it was not forgotten"
