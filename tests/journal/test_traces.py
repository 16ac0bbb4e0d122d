"""A flow that has ended is one trace: from the web request through every event and every reaction."""

import pytest
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExportResult
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from choreography.outbox import tracing
from journal.models import Entry, Outcome
from journal.traces import export_ended
from tests.flows.scenarios import SCENARIOS, Scenario
from tests.shop_in_a_box import Shop

TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"


def exported(shop: Shop) -> list[ReadableSpan]:
    shop.time.advance(10)
    exporter = InMemorySpanExporter()
    while export_ended(exporter):
        continue
    return [*exporter.get_finished_spans()]


@pytest.mark.parametrize("scenario", SCENARIOS, ids=str)
def test_the_whole_tree_of_an_order_is_one_trace(shop: Shop, scenario: Scenario) -> None:
    scenario.start(shop)
    shop.settle_at_once()

    spans = exported(shop)

    assert len(spans) == Entry.objects.count() + Outcome.objects.count()
    assert len({span.context.trace_id for span in spans}) == 1
    by_id = {span.context.span_id: span for span in spans}
    assert len(by_id) == len(spans)
    for span in spans:
        if span.kind is SpanKind.CONSUMER:
            assert span.parent is not None
            assert by_id[span.parent.span_id].kind is SpanKind.PRODUCER
            assert [link.context.span_id for link in span.links] == [span.parent.span_id]
        elif span.parent is not None:
            assert span.parent.span_id in by_id
    [root] = [span for span in spans if span.parent is None]
    assert root.name == "publish orders.order_placed.v2"


def test_the_trace_of_the_web_request_is_carried_on(shop: Shop) -> None:
    token = tracing._of_request.set(f"00-{TRACE}-{SPAN}-01")
    try:
        shop.place()
    finally:
        tracing._of_request.reset(token)
    shop.settle_at_once()

    spans = exported(shop)

    assert {f"{span.context.trace_id:032x}" for span in spans} == {TRACE}
    [root] = [span for span in spans if span.name == "publish orders.order_placed.v2"]
    assert root.parent is not None
    assert (f"{root.parent.span_id:016x}", root.parent.is_remote) == (SPAN, True)


def test_attempts_that_failed_are_spans_with_an_error(shop: Shop) -> None:
    shop.place("tok_fails_twice")
    shop.settle_at_once()

    failed = [span for span in exported(shop) if span.status.status_code is StatusCode.ERROR]

    assert [span.attributes["choreography.attempt"] for span in failed if span.attributes] == [1, 2]
    assert all((span.status.description or "").startswith("GatewayError") for span in failed)


def test_each_flow_is_exported_once(shop: Shop) -> None:
    shop.place()
    shop.settle_at_once()

    assert exported(shop)
    assert exported(shop) == []


def test_what_could_not_be_exported_is_tried_again(shop: Shop) -> None:
    class Down(InMemorySpanExporter):
        def export(self, spans: object) -> SpanExportResult:
            return SpanExportResult.FAILURE

    shop.place()
    shop.settle_at_once()
    shop.time.advance(10)

    assert export_ended(Down()) == 0
    assert exported(shop)
