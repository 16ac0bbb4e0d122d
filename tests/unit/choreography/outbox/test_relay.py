"""The relay publishes events in order, and marks them only when the broker has confirmed them."""

from collections.abc import Sequence
from uuid import UUID, uuid4

import pytest
import structlog
from django.core.management import CommandError, call_command
from django.db import connections
from django.test.utils import CaptureQueriesContext
from pytest_django.fixtures import Settings

from choreography.broker.publisher import Outgoing
from choreography.core.errors import Outage, PublishFailed, PublishRefused
from choreography.events import registry
from choreography.operations import doctor
from choreography.outbox.announcing import announce, transaction_of
from choreography.outbox.relay import publish_waiting, release_refused
from choreography.storage.tables import ServiceTables
from payments.events import PaymentDeclined
from payments.models import Outbox
from tests.unit.choreography.outbox.recording import Recorder

pytestmark = pytest.mark.django_db(databases="__all__")


def announce_some(count: int) -> list[str]:
    with transaction_of("payments"):
        for number in range(count):
            announce(PaymentDeclined(reason=str(number)), subject=uuid4())
    return [str(event_id) for event_id in Outbox.objects.order_by("position").values_list("event_id", flat=True)]


def waiting() -> int:
    return Outbox.objects.filter(published_at=None).count()


def test_events_go_out_in_the_order_in_which_they_were_announced() -> None:
    ids, recorder = announce_some(5), Recorder()
    assert publish_waiting("payments", recorder) == 5
    assert recorder.ids == ids
    assert waiting() == 0


def test_an_event_goes_to_the_exchange_of_its_type_as_it_was_announced() -> None:
    announce_some(1)
    recorder = Recorder()
    publish_waiting("payments", recorder)
    [[message]] = recorder.batches
    assert (message.exchange, message.routing_key) == ("payments.payment_declined.v1", "")
    assert message.content_type == "application/cloudevents+json"
    assert message.body.decode() == Outbox.objects.get().body


def test_an_event_must_reach_a_queue_where_a_service_that_is_known_here_hears_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    announce_some(2)
    heard, unheard = Recorder(), Recorder()
    publish_waiting("payments", heard, limit=1)
    monkeypatch.setattr(registry, "_reactions", {})
    publish_waiting("payments", unheard)

    assert [[message.mandatory for message in batch] for batch in (*heard.batches, *unheard.batches)] == [
        [True],
        [False],
    ]


@pytest.mark.parametrize("error", [PublishFailed("refused"), Outage("down")], ids=repr)
def test_what_the_broker_did_not_confirm_waits_and_goes_out_in_order_later(error: Exception) -> None:
    ids = announce_some(3)
    with pytest.raises(type(error)):
        publish_waiting("payments", Recorder(error))
    assert waiting() == 3

    recorder = Recorder()
    assert publish_waiting("payments", recorder) == 3
    assert recorder.ids == ids


def test_a_batch_has_a_limit_and_the_oldest_go_first() -> None:
    ids, recorder = announce_some(5), Recorder()
    assert [publish_waiting("payments", recorder, limit=2) for _ in range(4)] == [2, 2, 1, 0]
    assert recorder.ids == ids


@pytest.mark.parametrize("count", [1, 50], ids="{} events".format)
def test_a_batch_takes_two_statements_however_large_it_is(count: int) -> None:
    announce_some(count)
    with CaptureQueriesContext(connections[ServiceTables("payments").alias]) as queries:
        assert publish_waiting("payments", Recorder()) == count
    statements = [query["sql"].rpartition("; ")[2].split()[0] for query in queries]
    assert [word for word in statements if word not in ("SAVEPOINT", "RELEASE")] == ["SELECT", "UPDATE"]


def test_each_event_is_logged_with_its_flow() -> None:
    [event_id] = announce_some(1)
    with structlog.testing.capture_logs() as lines:
        publish_waiting("payments", Recorder())
    [line] = lines
    assert (line["event"], line["event_id"], line["event_type"]) == (
        "event published",
        event_id,
        "payments.payment_declined.v1",
    )
    assert line["flow"] == Outbox.objects.get().subject


def test_what_was_published_is_not_published_again() -> None:
    announce_some(2)
    publish_waiting("payments", Recorder())
    recorder = Recorder()
    assert publish_waiting("payments", recorder) == 0
    assert recorder.batches == []


def test_a_relay_publishes_only_its_own_services_events() -> None:
    announce_some(1)
    assert publish_waiting("orders", Recorder()) == 0
    assert waiting() == 1


class Refusing(Recorder):
    """Refuses every message that holds one event."""

    def __init__(self, event_id: str) -> None:
        super().__init__()
        self.event_id = event_id

    def publish(self, messages: Sequence[Outgoing]) -> None:
        super().publish(messages)
        refused = {index: "too large" for index, it in enumerate(messages) if self.event_id in it.body.decode()}
        if refused:
            raise PublishRefused(refused)


@pytest.mark.parametrize("most", [1, 2, 50])
def test_an_event_the_broker_will_never_take_is_set_aside_and_the_others_are_published(
    capsys: pytest.CaptureFixture[str], settings: Settings, most: int
) -> None:
    settings.CHOREOGRAPHY = settings.CHOREOGRAPHY | {"EVENTS_PER_MESSAGE": most}
    ids = announce_some(3)
    with structlog.testing.capture_logs() as lines:
        assert publish_waiting("payments", Refusing(ids[1])) == 3

    assert list(Outbox.objects.filter(published_at=None).values_list("event_id", "refusal")) == [
        (UUID(ids[1]), "too large")
    ]
    [line] = [line for line in lines if line["event"] == "event refused"]
    assert (line["event_id"], line["reason"]) == (ids[1], "too large")
    recorder = Recorder()
    assert publish_waiting("payments", recorder) == 0, "it is not tried again by itself"
    [finding] = doctor._database("payments")
    assert "1 event(s) that the broker refuses for good, the first because: too large" in finding.what
    assert finding.remedy.endswith("manage.py choreography release payments")

    call_command("choreography", "release", "payments")

    assert capsys.readouterr().out == "1 event(s) will be published again\n"
    assert publish_waiting("payments", recorder) == 1
    assert waiting() == 0


def test_only_what_was_refused_is_released() -> None:
    announce_some(2)
    publish_waiting("payments", Recorder())

    assert release_refused("payments") == 0
    with pytest.raises(CommandError, match="nobody is no service"):
        call_command("choreography", "release", "nobody")
