"""Web requests as OpenTelemetry spans: the trace of a flow begins with the request that placed the order."""

import os
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
    provider = TracerProvider(resource=Resource.create({"service.name": os.environ.get("OTEL_SERVICE_NAME", "web")}))
    provider.add_span_processor(BatchSpanProcessor(exporter))
    left_out = os.environ.get("OTEL_PYTHON_DJANGO_EXCLUDED_URLS", _LEFT_OUT)
    DjangoInstrumentor().instrument(tracer_provider=provider, excluded_urls=left_out)
