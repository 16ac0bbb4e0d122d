"""Old rows go, in bounded bites; what is still needed stays."""

from collections.abc import Iterator
from datetime import timedelta
from uuid import UUID, uuid4

import pytest
from django.db import connections
from django.test.utils import CaptureQueriesContext

from choreography import purge as module
from choreography import world
from choreography.conf import conf
from choreography.models import alias_of, transaction_of
from choreography.outbox import announce
from choreography.purge import purge
from choreography.testing import FrozenWorld
from payments.events import PaymentDeclined
from payments.models import DeadLetter, Inbox, Outbox

pytestmark = pytest.mark.django_db(databases="__all__")

ORDER = UUID(int=1)
MOMENT = timedelta(seconds=1)


@pytest.fixture(autouse=True)
def frozen() -> Iterator[FrozenWorld]:
    frozen = FrozenWorld()
    with world.replaced(frozen):
        yield frozen


def announced(subject: UUID, *, published: timedelta | None) -> int:
    """An event of an order, published so long ago, or not yet. Returns its sequence."""
    with transaction_of("payments"):
        event = announce(PaymentDeclined(reason="x"), subject=subject)
    at = None if published is None else world.now() - published
    Outbox.objects.filter(event_id=event.id).update(published_at=at)
    return event.sequence or 0


def heard(ago: timedelta) -> None:
    Inbox.objects.create(event_id=uuid4(), reaction="r", event_type="t", subject=ORDER, handled_at=world.now() - ago)


def left() -> list[int]:
    return list(Outbox.objects.order_by("sequence").values_list("sequence", flat=True))


def test_old_published_events_go_and_young_ones_stay() -> None:
    old, young = conf().keep_outbox + MOMENT, conf().keep_outbox - MOMENT
    for published in (old, old, young, young):
        announced(ORDER, published=published)
    assert purge("payments") == 2
    assert left() == [3, 4]


def test_what_waits_to_be_published_stays_however_old(frozen: FrozenWorld) -> None:
    announced(ORDER, published=None)
    frozen.advance(conf().keep_outbox.total_seconds() * 3)
    announced(ORDER, published=timedelta(0))
    assert purge("payments") == 0
    assert left() == [1, 2]


def test_the_newest_event_of_each_order_stays_so_that_counting_goes_on() -> None:
    old = conf().keep_outbox * 2
    for subject in (ORDER, ORDER, uuid4()):
        announced(subject, published=old)
    assert purge("payments") == 1
    assert announced(ORDER, published=None) == 3


def test_old_inbox_rows_go_and_young_ones_stay() -> None:
    heard(conf().keep_inbox + MOMENT)
    heard(conf().keep_inbox - MOMENT)
    assert purge("payments") == 1
    assert Inbox.objects.count() == 1


def test_dead_letters_stay_for_ever() -> None:
    DeadLetter.objects.create(key="k", error="E", message="m", body=b"", parked_at=world.now() - timedelta(days=9999))
    assert purge("payments") == 0
    assert DeadLetter.objects.exists()


def test_rows_are_removed_in_bounded_bites(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_BITE", 2)
    for _ in range(5):
        heard(conf().keep_inbox * 2)
    with CaptureQueriesContext(connections[alias_of("payments")]) as queries:
        assert purge("payments") == 5
    deletions = [query["sql"] for query in queries if query["sql"].startswith("DELETE")]
    assert len(deletions) == 3


def test_a_service_is_purged_alone() -> None:
    heard(conf().keep_inbox * 2)
    assert purge("orders") == 0
    assert Inbox.objects.count() == 1
