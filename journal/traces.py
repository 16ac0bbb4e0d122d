"""A flow that has ended, as one OpenTelemetry trace: made from what the journal knows, at no cost to the services.

Each event is a producer span, from when it was announced until it was published; each attempt of a reaction a consumer
span, the child of the event's, and linked to it as fan-out asks for. What a reaction announces are its children. The
trace is that of the web request in which the flow began, if that had one. Span ids are made from the ids of events and
outcomes, so that a flow that is exported twice is the same trace.

https://opentelemetry.io/docs/specs/semconv/messaging/messaging-spans/
"""

from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta
from functools import cache
from typing import Any, cast

import structlog
from django.db import transaction
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult
from opentelemetry.trace import Link, SpanContext, SpanKind, Status, StatusCode, TraceFlags

from choreography.core import clock
from journal.models import ALIAS, Cursor, Entry, Flow, Outcome

log = structlog.get_logger(__name__)

#: Flows exported at once.
_AT_ONCE = 200
#: What has just ended may still hear of something.
_SETTLED_AFTER = timedelta(seconds=5)
_CURSOR = "traces"
_EPOCH = datetime.fromisoformat("1970-01-01T00:00:00+00:00")
_FAILED = ("retried", "parked")


@cache
def otlp_exporter() -> SpanExporter:
    """The exporter that the environment describes (``OTEL_EXPORTER_OTLP_ENDPOINT``)."""
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

    exporter: SpanExporter = OTLPSpanExporter()
    return exporter


def export_ended(exporter: SpanExporter) -> int:
    """Export the next flows that have ended. Returns how many.

    Where the exporter fails, the next tick begins with the same flows.
    """
    with transaction.atomic(using=ALIAS):
        Cursor.objects.get_or_create(name=_CURSOR)
        cursor = Cursor.objects.select_for_update().get(name=_CURSOR)
        since, until = _EPOCH + timedelta(microseconds=cursor.position), clock.now() - _SETTLED_AFTER
        ended = Flow.objects.filter(ended_at__gt=since, ended_at__lte=until).order_by("ended_at")
        flows = [*ended[:_AT_ONCE]]
        if not flows:
            return 0
        last = cast(datetime, flows[-1].ended_at)
        flows = [*ended.filter(ended_at__lte=last)]  # those that ended in the same moment as well
        if exporter.export(_spans([flow.pk for flow in flows])) != SpanExportResult.SUCCESS:
            log.warning("traces not exported", flows=len(flows))
            return 0
        cursor.position = (last - _EPOCH) // timedelta(microseconds=1)
        cursor.save()
    return len(flows)


def _spans(flows: Sequence[str]) -> list[ReadableSpan]:
    entries = [*Entry.objects.filter(flow__in=flows).defer("body")]
    outcomes = [*Outcome.objects.filter(flow__in=flows)]
    by_id = {str(entry.event_id): entry for entry in entries}
    first = _first_of_flows(entries)
    done = {(it.event_id, it.service): it for it in outcomes if it.what == "done"}
    return [*_of_events(entries, done, first), *_of_outcomes(outcomes, by_id, first)]


def _first_of_flows(entries: Sequence[Entry]) -> dict[str, SpanContext]:
    """The span of each flow's first event, whose trace the whole flow belongs to."""
    found: dict[str, SpanContext] = {}
    for entry in sorted(entries, key=lambda entry: (entry.announced_at, entry.pk)):
        context = _context_of(entry, {})
        if context is not None:
            found.setdefault(entry.flow, context)
    return found


def _of_events(
    entries: Sequence[Entry], done: dict[tuple[str, str], Outcome], first: dict[str, SpanContext]
) -> Iterator[ReadableSpan]:
    for entry in entries:
        context = _context_of(entry, first)
        if context is None:
            continue
        # What a person or time brought about later belongs to the flow's first event.
        begun = first[entry.flow]
        parent = begun if begun.span_id != context.span_id else None
        cause = done.get((entry.caused_by, entry.source))
        if cause is not None:
            parent = _context(context.trace_id, _span_of(cause))
        elif entry.parent_span:
            parent = _context(context.trace_id, int(entry.parent_span, 16), is_remote=True)
        yield ReadableSpan(
            name=f"publish {entry.type}",
            context=context,
            parent=parent,
            kind=SpanKind.PRODUCER,
            resource=_resource(entry.source),
            attributes=_attributes("publish", "send", entry.type, str(entry.event_id), entry.flow),
            start_time=_nanoseconds(entry.announced_at),
            end_time=_nanoseconds(entry.published_at or entry.announced_at),
        )


def _of_outcomes(
    outcomes: Sequence[Outcome], by_id: dict[str, Entry], first: dict[str, SpanContext]
) -> Iterator[ReadableSpan]:
    for outcome in outcomes:
        entry = by_id.get(outcome.event_id)
        parent = _context_of(entry, first) if entry else None
        if entry is None or parent is None:
            continue
        attributes = _attributes("process", "process", entry.type, outcome.event_id, entry.flow) | {
            "messaging.consumer.group.name": outcome.service,
            "code.function.name": outcome.reaction,
            "choreography.outcome": outcome.what,
            "choreography.attempt": outcome.attempt,
        }
        yield ReadableSpan(
            name=f"process {entry.type}",
            context=_context(parent.trace_id, _span_of(outcome)),
            parent=parent,
            links=[Link(parent)],
            kind=SpanKind.CONSUMER,
            resource=_resource(outcome.service),
            attributes=attributes,
            status=Status(StatusCode.ERROR, outcome.error) if outcome.what in _FAILED else Status(StatusCode.OK),
            start_time=_nanoseconds(outcome.started_at or outcome.ended_at),
            end_time=_nanoseconds(outcome.ended_at),
        )


def _attributes(name: str, kind: str, event_type: str, event_id: str, flow: str) -> dict[str, Any]:
    return {
        "messaging.system": "rabbitmq",
        "messaging.operation.name": name,
        "messaging.operation.type": kind,
        "messaging.destination.name": event_type,
        "messaging.message.id": event_id,
        "messaging.message.conversation_id": flow,
    }


@cache
def _resource(service: str) -> Resource:
    return Resource.create({"service.name": service})


def _context_of(entry: Entry, first: dict[str, SpanContext]) -> SpanContext | None:
    """The span of an event, in its flow's trace; ``None`` for an event of a foreign program without a trace."""
    parts = entry.traceparent.split("-")
    try:
        trace = first[entry.flow].trace_id if entry.flow in first else int(parts[1], 16)
        return _context(trace, int(parts[2], 16))
    except (IndexError, ValueError):
        return None


def _context(trace: int, span: int, *, is_remote: bool = False) -> SpanContext:
    return SpanContext(trace, span, is_remote, TraceFlags(TraceFlags.SAMPLED))


def _span_of(outcome: Outcome) -> int:
    return outcome.key.int & 0xFFFF_FFFF_FFFF_FFFF or 1


def _nanoseconds(moment: datetime) -> int:
    return (moment - _EPOCH) // timedelta(microseconds=1) * 1000
