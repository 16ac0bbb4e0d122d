"""Old rows are deleted in bounded batches; what is still needed stays."""

from datetime import timedelta
from uuid import UUID, uuid4

import pytest
from django.db import connections
from django.test.utils import CaptureQueriesContext

from choreography.core import clock
from choreography.core.conf import conf
from choreography.outbox.announcing import announce, transaction_of
from choreography.storage import retention as module
from choreography.storage.retention import purge
from choreography.storage.tables import ServiceTables
from choreography.testing import FrozenClock
from payments.events import PaymentDeclined
from payments.models import DeadLetter, Inbox, Outbox, SubjectCounter

pytestmark = [pytest.mark.django_db(databases="__all__"), pytest.mark.usefixtures("frozen")]

ORDER = str(UUID(int=1))
MOMENT = timedelta(seconds=1)
#: How long ago an event was published that is due.
OLD = timedelta(days=9999)


def announced(subject: str, *, published: timedelta | None) -> int:
    """An event of an order, published so long ago, or not yet. Returns its sequence."""
    with transaction_of("payments"):
        announce(PaymentDeclined(reason="x"), subject=subject)
    row = Outbox.objects.latest("position")
    row.published_at = None if published is None else clock.now() - published
    row.save()
    return row.sequence


def heard(ago: timedelta) -> None:
    Inbox.objects.create(event_id=uuid4(), reaction="r", event_type="t", subject=ORDER, handled_at=clock.now() - ago)


def counted() -> dict[str, int]:
    return dict(SubjectCounter.objects.values_list("subject", "sequence"))


def remaining() -> list[int]:
    return list(Outbox.objects.order_by("sequence").values_list("sequence", flat=True))


def test_old_published_events_are_deleted_and_young_ones_stay() -> None:
    old, young = conf().keep_outbox + MOMENT, conf().keep_outbox - MOMENT
    for published in (old, old, young, young):
        announced(ORDER, published=published)
    assert purge("payments") == 2
    assert remaining() == [3, 4]


def test_what_waits_to_be_published_stays_however_old(frozen: FrozenClock) -> None:
    announced(ORDER, published=None)
    frozen.advance(conf().keep_outbox.total_seconds() * 3)
    announced(ORDER, published=timedelta(0))
    assert purge("payments") == 0
    assert remaining() == [1, 2]


def test_counting_continues_when_all_events_of_a_subject_are_deleted() -> None:
    other = str(uuid4())
    for subject in (ORDER, ORDER, other):
        announced(subject, published=OLD)
    assert purge("payments") == 3
    assert not Outbox.objects.exists()
    assert counted() == {ORDER: 2, other: 1}

    assert announced(ORDER, published=OLD) == 3
    assert purge("payments") == 1
    assert counted() == {ORDER: 3, other: 1}
    assert announced(ORDER, published=None) == 4


def test_counting_continues_when_the_newest_event_was_deleted_before_an_older_one() -> None:
    announced(ORDER, published=None)
    announced(ORDER, published=OLD)
    purge("payments")
    Outbox.objects.update(published_at=clock.now() - OLD)
    assert purge("payments") == 1
    assert counted() == {ORDER: 2}


def test_a_sequence_is_kept_if_and_only_if_its_events_are_deleted(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError

    announced(ORDER, published=OLD)
    monkeypatch.setattr(module, "_keep_sequences", fail)
    with pytest.raises(RuntimeError):
        purge("payments")
    assert remaining() == [1]


def test_waiting_events_delay_nothing_as_long_as_a_batch_finds_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_BATCH", 2)
    for published in (None, OLD) * 3:
        announced(ORDER, published=published)
    assert purge("payments") == 3
    assert remaining() == [1, 3, 5]


def test_a_batch_full_of_waiting_events_ends_the_purge(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_BATCH", 3)
    for published in (None, None, None, OLD):
        announced(ORDER, published=published)
    assert purge("payments") == 0
    Outbox.objects.filter(sequence=2).update(published_at=clock.now() - OLD)
    assert purge("payments") == 2
    assert remaining() == [1, 3]


def test_old_inbox_rows_are_deleted_and_young_ones_stay() -> None:
    heard(conf().keep_inbox + MOMENT)
    heard(conf().keep_inbox - MOMENT)
    assert purge("payments") == 1
    assert Inbox.objects.count() == 1


def test_dead_letters_stay_for_ever() -> None:
    DeadLetter.objects.create(key="k", error="E", message="m", body=b"", parked_at=clock.now() - OLD)
    assert purge("payments") == 0
    assert DeadLetter.objects.exists()


def test_rows_are_deleted_in_bounded_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_BATCH", 2)
    for _ in range(5):
        heard(OLD)
    with CaptureQueriesContext(connections[ServiceTables("payments").alias]) as queries:
        assert purge("payments") == 5
    deletions = [query["sql"] for query in queries if 'DELETE FROM "payments_inbox"' in query["sql"]]
    assert len(deletions) == 4, "2, 2, 1, and one that finds nothing"


def test_a_service_is_purged_alone() -> None:
    heard(conf().keep_inbox * 2)
    assert purge("orders") == 0
    assert Inbox.objects.count() == 1


def test_what_dead_processes_left_behind_is_deleted_after_a_day() -> None:
    tables = ServiceTables("payments")
    for days in (0, 2):
        left_at = clock.now() - timedelta(days=days)
        tables.claims.create(key=f"claim {days}", owner=uuid4(), until=left_at)
        tables.suspects.create(key=f"suspect {days}", begun=1, last_at=left_at)

    purge("payments")

    assert [claim.key for claim in tables.claims] == ["claim 0"]
    assert [note.key for note in tables.suspects] == ["suspect 0"]
