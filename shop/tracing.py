"""Web requests as OpenTelemetry spans: the trace of a flow begins with the request that placed the order."""

from typing import TYPE_CHECKING

from django.core.exceptions import ImproperlyConfigured

if TYPE_CHECKING:
    from opentelemetry.sdk.trace.export import SpanExporter

#: What asks again and again whether the shop is well, and files.
_LEFT_OUT = "healthz,health/,metrics,static/"


def trace_requests(exporter: "SpanExporter | None" = None) -> None:
    """Have each request make a span; call it before Django loads the middleware.

    Args:
        exporter: by default the one that the environment describes (``OTEL_EXPORTER_OTLP_ENDPOINT``).

    Raises:
        ImproperlyConfigured: what it needs is not installed.
    """
    try:
        from opentelemetry.instrumentation.django import DjangoInstrumentor
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor

        if exporter is None:
            from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

            exporter = OTLPSpanExporter()
    except ImportError as error:
        raise ImproperlyConfigured(
            f"JOURNAL_TRACES is true, and {error.name} is not installed: pip install -r requirements-otel.txt"
        ) from error
    provider = TracerProvider(resource=Resource.create({"service.name": "web"}))
    provider.add_span_processor(BatchSpanProcessor(exporter))
    DjangoInstrumentor().instrument(tracer_provider=provider, excluded_urls=_LEFT_OUT)
