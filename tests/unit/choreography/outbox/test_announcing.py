"""Announcing: only in the transaction that makes it true, only one's own facts, only what was declared."""

import json
import re
from collections.abc import Callable
from contextlib import closing, suppress
from typing import Any
from uuid import UUID

import pytest
from django.db import IntegrityError, connections, transaction
from django.http import HttpResponse
from django.test import RequestFactory
from django.test.utils import CaptureQueriesContext
from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags, use_span
from pytest_django.fixtures import Settings

from choreography.core import clock
from choreography.core.errors import ContractError
from choreography.events.messages import Event, Nothing, read_event
from choreography.events.registry import Reaction, reaction_to
from choreography.outbox.announcing import announce, caused_by, transaction_of
from choreography.outbox.tracing import TraceMiddleware
from choreography.storage.tables import ServiceTables
from choreography.testing import Choreography, FrozenClock
from payments.events import CaptureFailed, PaymentCaptured, PaymentDeclined
from payments.models import Outbox, Payment, SubjectCounter
from shipping.events import ShipmentDelivered
from shipping.models import Outbox as ShippingOutbox

pytestmark = pytest.mark.usefixtures("frozen")

ORDER, ANOTHER, THIRD = (str(UUID(int=number)) for number in (1, 2, 3))
DECLINED = PaymentDeclined(reason="expired_card")

everywhere = pytest.mark.django_db(databases="__all__")


def reaction(service: str, event_type: str) -> Reaction:
    found = reaction_to(service, event_type)
    assert found is not None
    return found


def event(**changes: Any) -> Event[Nothing]:
    fields: dict[str, Any] = {
        "id": clock.new_id(),
        "type": "shipping.shipment_dispatched.v1",
        "source": "shipping",
        "subject": ORDER,
        "time": clock.now(),
        "correlationid": "flow",
        "data": Nothing(),
    }
    return Event[Nothing](**fields | changes)


def counted(subject: str) -> list[int]:
    """The sequences of a subject's events, in the order in which they go out."""
    return list(Outbox.objects.filter(subject=subject).order_by("position").values_list("sequence", flat=True))


@everywhere
def test_an_announced_fact_waits_in_the_outbox_as_it_goes_out() -> None:
    with transaction_of("payments"):
        announce(DECLINED, subject=ORDER)

    row = Outbox.objects.get()
    assert (row.event_type, row.subject) == ("payments.payment_declined.v1", ORDER)
    assert (row.sequence, row.caused_by, row.announced_at, row.published_at) == (1, None, clock.now(), None)
    body = json.loads(row.body)
    assert re.fullmatch(f"00-[0-9a-f]{{32}}-{row.event_id.hex[-16:]}-01", body.pop("traceparent"))
    assert body == {
        "specversion": "1.0",
        "id": str(row.event_id),
        "type": "payments.payment_declined.v1",
        "source": "payments",
        "subject": ORDER,
        "time": "2026-01-01T00:00:00Z",
        "datacontenttype": "application/json",
        "correlationid": ORDER,
        "sequence": 1,
        "data": {"reason": "expired_card"},
    }


@pytest.mark.django_db(databases="__all__", transaction=True)
def test_outside_a_transaction_nothing_is_announced() -> None:
    wanted = r"inside transaction_of\('payments'\)"
    with pytest.raises(ContractError, match=wanted):
        announce(DECLINED, subject=ORDER)
    with transaction_of("orders"), pytest.raises(ContractError, match=wanted):
        announce(DECLINED, subject=ORDER)
    with transaction.atomic(using=ServiceTables("payments").alias), pytest.raises(ContractError, match=wanted):
        announce(DECLINED, subject=ORDER)
    with transaction_of("payments"):
        pass
    with pytest.raises(ContractError, match=wanted):
        announce(DECLINED, subject=ORDER)
    assert not Outbox.objects.exists()


@everywhere
def test_what_is_rolled_back_was_never_announced() -> None:
    with transaction_of("payments"):
        announce(DECLINED, subject=ORDER)
        transaction.set_rollback(True, using=ServiceTables("payments").alias)
    assert not Outbox.objects.exists()
    with suppress(ZeroDivisionError), transaction_of("payments"):
        announce(DECLINED, subject=ORDER)
        raise ZeroDivisionError
    assert not Outbox.objects.exists()


def raise_inside() -> None:
    with suppress(ZeroDivisionError), transaction_of("payments"):
        announce(DECLINED, subject=ANOTHER)
        raise ZeroDivisionError


def roll_back_inside() -> None:
    with transaction_of("payments"):
        announce(DECLINED, subject=ANOTHER)
        transaction.set_rollback(True, using=ServiceTables("payments").alias)


def raise_in_a_savepoint_of_django() -> None:
    with suppress(ZeroDivisionError), transaction.atomic(using=ServiceTables("payments").alias):
        announce(DECLINED, subject=ANOTHER)
        raise ZeroDivisionError


def raise_around_what_succeeded() -> None:
    with suppress(ZeroDivisionError), transaction_of("payments"):
        with transaction_of("payments"):
            announce(DECLINED, subject=ANOTHER)
        raise ZeroDivisionError


@everywhere
@pytest.mark.parametrize(
    "roll_back",
    [raise_inside, roll_back_inside, raise_in_a_savepoint_of_django, raise_around_what_succeeded],
    ids=lambda it: it.__name__,
)
def test_what_is_rolled_back_to_a_savepoint_was_never_announced_and_the_rest_was(
    roll_back: Callable[[], None],
) -> None:
    with transaction_of("payments"):
        announce(DECLINED, subject=ORDER)
        roll_back()
        with transaction_of("payments"):
            announce(DECLINED, subject=THIRD)
            announce(DECLINED, subject=ORDER)
    assert list(Outbox.objects.order_by("position").values_list("subject", "sequence")) == [
        (ORDER, 1),
        (THIRD, 1),
        (ORDER, 2),
    ]


@everywhere
def test_each_services_facts_go_into_its_own_outbox() -> None:
    with transaction_of("shipping"), transaction_of("payments"):
        announce(ShipmentDelivered(parcel="p"), subject=ORDER)
        announce(DECLINED, subject=ORDER)
    assert [row.event_type for row in Outbox.objects.all()] == ["payments.payment_declined.v1"]
    assert [row.event_type for row in ShippingOutbox.objects.all()] == ["shipping.shipment_delivered.v1"]


@everywhere
@pytest.mark.parametrize("number", [2, 50])
def test_many_facts_take_as_many_statements_as_one(number: int) -> None:
    """One to count what was announced before, and on PostgreSQL to wake the relay; one to add the rows."""
    with CaptureQueriesContext(connections[ServiceTables("payments").alias]) as asked, transaction_of("payments"):
        for count in range(number):
            announce(DECLINED, subject=str(count))
    statements = [query["sql"].split()[0] for query in asked if "SAVEPOINT" not in query["sql"]]
    assert statements == ["SELECT", "INSERT"]
    assert Outbox.objects.count() == number


@everywhere
def test_counting_continues_from_the_last_event_that_was_purged() -> None:
    """Also where the outbox has newer ones, and for all subjects of one transaction."""
    SubjectCounter.objects.create(subject=ORDER, sequence=7)
    with transaction_of("payments"):
        announce(DECLINED, subject=ORDER)
    with transaction_of("payments"):
        for subject in (ANOTHER, ORDER, ORDER):
            announce(DECLINED, subject=subject)
    assert counted(ORDER) == [8, 9, 10]
    assert counted(ANOTHER) == [1]


@everywhere
def test_the_events_of_each_subject_are_counted_from_one_without_gaps() -> None:
    with transaction_of("payments"):
        for subject in (ORDER, ANOTHER, ORDER, ORDER):
            announce(DECLINED, subject=subject)
    with transaction_of("payments"):
        announce(DECLINED, subject=ORDER)
        transaction.set_rollback(True, using=ServiceTables("payments").alias)
    with transaction_of("payments"):
        announce(DECLINED, subject=ORDER)

    assert counted(ORDER) == [1, 2, 3, 4]
    assert counted(ANOTHER) == [1]


@everywhere
def test_two_events_of_one_subject_never_have_the_same_sequence() -> None:
    with transaction_of("payments"):
        announce(DECLINED, subject=ORDER)
    row = Outbox.objects.get()
    row.pk, row.event_id = None, clock.new_id()
    with pytest.raises(IntegrityError), transaction.atomic(using=ServiceTables("payments").alias):
        row.save(force_insert=True)


@everywhere
def test_a_reaction_announces_with_its_cause() -> None:
    cause = event()
    capture = reaction("payments", "shipping.shipment_dispatched.v1")
    with transaction_of("payments"), caused_by(capture, cause):
        announce(PaymentCaptured(amount=1, currency="EUR"), subject=ORDER)
        announce(PaymentCaptured(amount=1, currency="EUR"), subject=ANOTHER)
    assert causes() == [(ORDER, cause.id, "flow"), (ANOTHER, cause.id, "flow")]


@everywhere
def test_each_fact_has_the_event_that_is_handled_as_its_cause() -> None:
    """Also where one transaction handles many events, whatever the facts are about."""
    capture = reaction("payments", "shipping.shipment_dispatched.v1")
    first, second = event(), event(subject=ANOTHER, correlationid="")
    with transaction_of("payments"):
        for cause in (first, second):
            with caused_by(capture, cause):
                announce(PaymentCaptured(amount=1, currency="EUR"), subject=THIRD)
        announce(DECLINED, subject=ORDER)
    assert causes() == [(THIRD, first.id, "flow"), (THIRD, second.id, ANOTHER), (ORDER, None, ORDER)]


@everywhere
def test_the_events_of_a_flow_have_one_trace() -> None:
    capture = reaction("payments", "shipping.shipment_dispatched.v1")
    with transaction_of("payments"):
        announce(DECLINED, subject=ORDER)
        with caused_by(capture, event(correlationid=ORDER)):
            announce(PaymentCaptured(amount=1, currency="EUR"), subject=ANOTHER)
        announce(DECLINED, subject=THIRD)
    parents = [json.loads(row.body)["traceparent"].split("-") for row in Outbox.objects.order_by("position")]
    (_, one, *_), (_, same, *_), (_, other, *_) = parents
    assert one == same != other
    assert len({span for _, _, span, _ in parents}) == 3


@everywhere
@pytest.mark.parametrize(
    "subject",
    ["x", "invoice 7/2026", "Größe: ½ ☕", '"; DROP TABLE --%s', "x" * 200, "☕" * 200, UUID(int=1)],
    ids=range(7),
)
def test_a_subject_is_any_text_of_up_to_200_characters(subject: UUID | str, frozen: FrozenClock) -> None:
    """It travels from the outbox over the broker into the event that a reaction gets."""
    with closing(Choreography(frozen)) as choreography:
        with transaction_of("payments"):
            announce(PaymentCaptured(amount=1, currency="EUR"), subject=subject)
        row = Outbox.objects.get()
        assert (row.subject, row.sequence) == (str(subject), 1)
        assert choreography.relay("payments") == 1
        message = choreography.take("orders")

    assert message is not None
    heard = read_event(message.body, Nothing)
    assert (heard.subject, heard.correlationid) == (str(subject), str(subject))


@everywhere
@pytest.mark.parametrize(("subject", "length"), [("", 0), ("x" * 201, 201), ("☕" * 1000, 1000)])
def test_an_empty_or_longer_subject_is_refused(subject: str, length: int) -> None:
    refusal = rf"payment_declined\.v1 .* subject of {length} characters: a subject has 1 to 200$"
    with transaction_of("payments"), pytest.raises(ContractError, match=refusal):
        announce(DECLINED, subject=subject)
    assert not Outbox.objects.exists()


@everywhere
def test_a_subject_that_no_database_can_store_is_refused() -> None:
    with transaction_of("payments"), pytest.raises(ContractError, match="a subject with a NUL character"):
        announce(DECLINED, subject="order \0")
    assert not Outbox.objects.exists()


@everywhere
def test_an_event_that_no_reader_would_take_is_refused_and_nothing_is_changed(settings: Settings) -> None:
    settings.CHOREOGRAPHY = settings.CHOREOGRAPHY | {"MAX_BODY_BYTES": 500}
    refusal = r"payment_declined\.v1 about 7 has [5-9]\d\d bytes, more than the 500 that readers take"

    def decline() -> None:
        with transaction_of("payments"):
            Payment.objects.create(order_id=UUID(int=7))
            announce(PaymentDeclined(reason="☕" * 100), subject="7")

    with pytest.raises(ContractError, match=refusal):
        decline()

    assert not Outbox.objects.exists()
    assert not Payment.objects.exists()


def causes() -> list[tuple[str, UUID | None, str]]:
    """Subject, cause and flow of all that was announced."""
    return [
        (row.subject, row.caused_by, json.loads(row.body)["correlationid"])
        for row in Outbox.objects.order_by("position")
    ]


@everywhere
def test_a_reaction_cannot_announce_what_it_did_not_declare() -> None:
    capture = reaction("payments", "shipping.shipment_dispatched.v1")
    with (
        transaction_of("payments"),
        caused_by(capture, event()),
        pytest.raises(ContractError, match=r"payments.capture_payment .* add PaymentDeclined"),
    ):
        announce(DECLINED, subject=ORDER)
    assert not Outbox.objects.exists()


@everywhere
def test_a_reaction_cannot_announce_another_services_fact() -> None:
    capture = reaction("payments", "shipping.shipment_dispatched.v1")
    with (
        transaction_of("shipping"),
        caused_by(capture, event()),
        pytest.raises(ContractError, match="a fact of shipping"),
    ):
        announce(ShipmentDelivered(parcel="p"), subject=ORDER)


@everywhere
def test_a_cause_ends_with_its_reaction_even_if_that_failed() -> None:
    capture = reaction("payments", "shipping.shipment_dispatched.v1")
    with pytest.raises(ZeroDivisionError), caused_by(capture, event()):
        raise ZeroDivisionError
    with transaction_of("payments"):
        announce(CaptureFailed(reason="x"), subject=ORDER)
    assert Outbox.objects.get().caused_by is None


TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "00f067aa0ba902b7"


def traces() -> list[str]:
    return [json.loads(row.body)["traceparent"] for row in Outbox.objects.order_by("position")]


@everywhere
def test_an_event_belongs_to_the_trace_of_its_cause() -> None:
    capture = reaction("payments", "shipping.shipment_dispatched.v1")
    with (
        transaction_of("payments"),
        caused_by(capture, event(traceparent=f"00-{TRACE}-b7ad6b7169203331-00")),
    ):
        announce(CaptureFailed(reason="x"), subject=ORDER)

    [row], [traceparent] = Outbox.objects.all(), traces()
    assert traceparent == f"00-{TRACE}-{row.event_id.hex[-16:]}-00"


@everywhere
def test_an_event_belongs_to_the_span_that_opentelemetry_has_opened_for_the_request() -> None:
    def view(_request: object) -> HttpResponse:
        with transaction_of("payments"):
            announce(DECLINED, subject=ORDER)
        return HttpResponse()

    span = SpanContext(int(TRACE, 16), int(SPAN, 16), is_remote=False, trace_flags=TraceFlags(1))
    with use_span(NonRecordingSpan(span)):
        TraceMiddleware(view)(RequestFactory().get("/", headers={"traceparent": f"00-{TRACE}-b7ad6b7169203331-01"}))

    [row] = Outbox.objects.all()
    assert json.loads(row.body)["parentspan"] == SPAN
    assert traces() == [f"00-{TRACE}-{row.event_id.hex[-16:]}-01"]


@everywhere
@pytest.mark.parametrize(
    "given", ["", "rubbish", f"ff-{TRACE}-b7ad6b7169203331-01", f"00-{'0' * 32}-b7ad6b7169203331-01"]
)
def test_a_trace_that_is_none_is_replaced_by_one_of_the_flow(given: str) -> None:
    def view(_request: object) -> HttpResponse:
        with transaction_of("payments"):
            announce(DECLINED, subject=ORDER)
            announce(DECLINED, subject=ORDER)
        return HttpResponse()

    TraceMiddleware(view)(RequestFactory().get("/", headers={"traceparent": given}))

    first, second = traces()
    assert re.fullmatch(r"00-[0-9a-f]{32}-[0-9a-f]{16}-01", first)
    assert first[:35] == second[:35] != f"00-{TRACE}"


@everywhere
def test_what_a_web_request_announces_belongs_to_its_trace() -> None:
    def view(_request: object) -> HttpResponse:
        with transaction_of("payments"):
            announce(DECLINED, subject=ORDER)
        return HttpResponse()

    TraceMiddleware(view)(RequestFactory().get("/", headers={"traceparent": f"00-{TRACE}-b7ad6b7169203331-01"}))
    view(None)

    first, second = traces()
    assert first.startswith(f"00-{TRACE}-")
    assert not second.startswith(f"00-{TRACE}-")
