"""What a service should have heard and has not is found, and sent again to it alone."""

import json
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest
from django.core.management import CommandError, call_command

from choreography.broker import topology
from choreography.broker.embedded.store import Store
from choreography.broker.publisher import Outgoing
from choreography.core import clock
from choreography.inbox.deliveries import DEAD_LETTER, Delivery
from choreography.management.commands import choreography as command
from choreography.operations import doctor
from choreography.operations.unheard import unheard
from choreography.storage.models import Inbox, Outbox
from choreography.storage.tables import ServiceTables

pytestmark = pytest.mark.django_db(databases="__all__")
PLACED, AUTHORIZE = "orders.order_placed.v2", "payments.authorize_payment"


def published(ago: timedelta = timedelta(minutes=5), event_type: str = PLACED) -> Outbox:
    """An event that orders has published so long ago."""
    event_id, at = clock.new_id(), clock.now() - ago
    return ServiceTables("orders").outbox.create(
        event_id=event_id,
        event_type=event_type,
        subject=str(event_id),
        sequence=1,
        body=json.dumps({"id": str(event_id)}),
        announced_at=at,
        published_at=at,
    )


def hear(event: Outbox, reaction: str = AUTHORIZE) -> Inbox:
    return ServiceTables(reaction.partition(".")[0]).inbox.create(
        event_id=event.event_id, reaction=reaction, event_type=event.event_type, subject=event.subject
    )


def lost(service: str = "payments") -> set[str | None]:
    return {message.message_id for message in unheard(service)}


def test_what_was_heard_is_not_sent_again() -> None:
    events = [published() for _ in range(3)]
    for event in events:
        hear(event)
    assert lost() == set()


def test_what_was_not_heard_is_found_for_each_service_that_reacts_to_it() -> None:
    heard, missing = published(), published()
    hear(heard)
    hear(heard, "shipping.plan_shipment")
    hear(missing, "shipping.plan_shipment")
    assert lost("payments") == {str(missing.event_id)}
    assert lost("shipping") == set()


def test_what_may_still_be_on_its_way_or_is_old_is_left_alone() -> None:
    published(timedelta(seconds=30))
    published(timedelta(days=2))
    waiting = published()
    ServiceTables("orders").outbox.filter(pk=waiting.pk).update(published_at=None)
    assert lost() == set()


def test_what_is_parked_or_on_the_ladder_is_left_alone() -> None:
    parked, retried, missing = published(), published(), published()
    tables = ServiceTables("payments")
    tables.dead_letters.create(key="parked", event_id=parked.event_id, error="", message="", body=b"")
    key = Delivery("payments", retried.body.encode(), "application/cloudevents+json").key
    tables.retries.create(key=key, body=b"", due_back_at=clock.now())
    assert lost() == {str(missing.event_id)}


def test_a_dead_letter_that_was_sent_again_and_is_lost_with_its_queue_is_sent_again() -> None:
    """As it is now: a person may have edited it."""
    dead_letters, minutes_ago = ServiceTables("payments").dead_letters, clock.now() - timedelta(minutes=2)
    for number, state, sent_at in (
        (1, "retrying", minutes_ago),
        (2, "retrying", clock.now()),
        (3, "retrying", minutes_ago),
        (4, "parked", minutes_ago),
        (5, "resolved", minutes_ago),
    ):
        body = f"edited {number}".encode()
        dead_letters.create(key=f"{number}", state=state, sent_at=sent_at, error="", message="", body=body)
    on_ladder = Delivery("payments", b"edited 3").key
    ServiceTables("payments").retries.create(key=on_ladder, body=b"", due_back_at=clock.now())

    [message] = unheard("payments")

    assert message.body == b"edited 1"
    assert message.headers == {DEAD_LETTER: "1"}
    assert message.routing_key == topology.queue_name("payments")


def test_a_retry_that_the_ladder_has_lost_before_is_sent_again() -> None:
    """A copy of it was published to the queue, and is lost with that. The next would follow in up to an hour."""
    retried = published()
    key = Delivery("payments", retried.body.encode(), "application/cloudevents+json").key
    due = clock.now() + timedelta(hours=1)
    ServiceTables("payments").retries.create(key=key, body=b"", due_back_at=due, copies=1)
    assert lost() == {str(retried.event_id)}


def test_a_reaction_that_is_new_need_not_hear_what_was_published_before_it() -> None:
    published()
    hear(published())
    missing = published()
    assert lost() == {str(missing.event_id)}


def test_many_are_compared_in_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("choreography.operations.unheard._BATCH", 3)
    events = [published() for _ in range(10)]
    for event in events[::2]:
        hear(event)
    assert lost() == {str(event.event_id) for event in events[1::2]}


def test_the_command_sends_it_to_the_queue_of_that_service_alone(
    embedded_broker: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    missing = published()
    assert "1 event(s) that were published more than a minute ago did not reach it" in {
        finding.what for finding in doctor.findings() if finding.about == "payments"
    }

    call_command("choreography", "send_again", "payments", "--dry-run")
    assert embedded_broker.queue("payments").ready == 0
    call_command("choreography", "send_again", "payments")

    assert capsys.readouterr().out.splitlines() == [
        "1 event(s) did not reach payments",
        "1 event(s) sent again to payments",
    ]
    assert (embedded_broker.queue("payments").ready, embedded_broker.queue("shipping").ready) == (1, 0)
    message = embedded_broker.get(["payments"], "test")
    assert message is not None
    assert bytes(message.body) == missing.body.encode()


def test_what_is_published_while_it_is_told_what_is_missing_is_not_lost_with_a_deleted_queue(
    embedded_broker: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    published()
    embedded_broker.delete_queue("payments")

    def look(*arguments: Any) -> Iterator[Outgoing]:
        embedded_broker.publish(
            PLACED, "", body=b"{}", content_type=None, content_encoding=None, headers={}, properties={}
        )
        yield from unheard(*arguments)

    monkeypatch.setattr(command, "unheard", look)
    call_command("choreography", "send_again", "payments")

    assert embedded_broker.queue("payments").ready == 2


def test_what_waits_in_the_queue_is_not_lost(embedded_broker: Store) -> None:
    published()
    embedded_broker.publish(
        "", "payments", body=b"{}", content_type=None, content_encoding=None, headers={}, properties={}
    )
    assert not [
        finding for finding in doctor.findings() if "did not reach it" in finding.what and finding.about == "payments"
    ]


@pytest.mark.parametrize(
    "arguments",
    [
        ["nobody"],
        ["payments", "--hours", "0"],
        ["payments", "--hours", "nan"],
        ["payments", "--hours", "1e12"],
        ["payments", "--after", "-1"],
    ],
)
def test_what_makes_no_sense_is_refused(arguments: list[str]) -> None:
    with pytest.raises(CommandError):
        call_command("choreography", "send_again", *arguments)
