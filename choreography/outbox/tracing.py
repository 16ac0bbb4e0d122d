"""The W3C trace that an event belongs to: that of the event or the web request it was announced because of.

https://www.w3.org/TR/trace-context/ (level 1): ``00-<trace id>-<parent id>-<flags>``.
"""

import hashlib
import re
from collections.abc import Callable
from contextvars import ContextVar
from uuid import UUID

from django.http import HttpRequest, HttpResponse

_TRACEPARENT = re.compile(r"00-(?P<trace>(?!0{32})[0-9a-f]{32})-(?!0{16})[0-9a-f]{16}-(?P<flags>[0-9a-f]{2})")
_of_request: ContextVar[str | None] = ContextVar("traceparent", default=None)


class TraceMiddleware:
    """Has what a request announces belong to the request's trace.

    That is the span that OpenTelemetry has opened for it, where the project uses OpenTelemetry, or the one from which
    it was sent (header ``traceparent``).
    """

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponse]) -> None:
        self._get_response = get_response
        try:
            from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
        except ImportError:
            self._inject: Callable[[dict[str, str]], None] = lambda carrier: None
        else:
            self._inject = TraceContextTextMapPropagator().inject

    def __call__(self, request: HttpRequest) -> HttpResponse:
        active: dict[str, str] = {}
        self._inject(active)
        token = _of_request.set(active.get("traceparent") or request.headers.get("traceparent"))
        try:
            return self._get_response(request)
        finally:
            _of_request.reset(token)


def current() -> str | None:
    """The ``traceparent`` of the web request that is being answered, as it was sent."""
    return _of_request.get()


def span_of(traceparent: str | None) -> str | None:
    """The span of a ``traceparent``, which is 16 hexadecimal digits."""
    return traceparent.split("-")[2] if traceparent and _TRACEPARENT.fullmatch(traceparent) else None


def traceparent_of(event_id: UUID, flow: str, parent: str | None) -> str:
    """The ``traceparent`` of a new event: in the trace of its parent, or in one made from its flow."""
    found = _TRACEPARENT.fullmatch(parent or "")
    trace = found["trace"] if found else hashlib.blake2b(flow.encode(), digest_size=16).hexdigest()
    return f"00-{trace}-{event_id.hex[-16:]}-{found['flags'] if found else '01'}"
