"""For machines: ``/metrics`` in the format of Prometheus, ``/health/live`` and ``/health/ready``."""

import hmac
from collections.abc import Callable, Iterator
from functools import wraps
from typing import Any

from django.conf import settings
from django.db import DatabaseError, connections
from django.http import HttpRequest, HttpResponse, JsonResponse

from choreography.broker.publisher import broker_errors, connect, reach
from choreography.storage.migrations import Unmigrated, refuse_unmigrated
from shop.exposition import CONTENT_TYPE_LATEST, exposition

View = Callable[[HttpRequest], HttpResponse]

#: Seconds the broker has to answer a health check.
_PATIENCE = 3


def for_machines(view: View) -> View:
    """Only with the token, or from an address of ``METRICS_ALLOWED``.

    An address counts only where no proxy is in between: behind one, everybody has the proxy's.
    """

    @wraps(view)
    def guarded(request: HttpRequest) -> HttpResponse:
        if not _may_read(request):
            return HttpResponse("Give METRICS_TOKEN as a bearer token.\n", status=401, content_type="text/plain")
        return view(request)

    return guarded


@for_machines
def metrics_page(request: HttpRequest) -> HttpResponse:
    """What all processes on this machine have counted, and how the services are doing."""
    return HttpResponse(exposition(), content_type=CONTENT_TYPE_LATEST)


def live(request: HttpRequest) -> JsonResponse:
    """200 for as long as this process answers."""
    return JsonResponse({"live": True})


def ready(request: HttpRequest) -> JsonResponse:
    """200 if this process can do its work, else 503. What is wrong is told to those who may read the metrics."""
    wrong = list(_not_ready())
    content: dict[str, Any] = {"ready": not wrong}
    if _may_read(request):
        content["wrong"] = wrong
    return JsonResponse(content, status=503 if wrong else 200)


def _not_ready() -> Iterator[str]:
    for alias in connections:
        try:
            with connections[alias].cursor() as cursor:
                cursor.execute("SELECT 1")
        except DatabaseError:
            yield f"the database {alias} can't be reached"
    try:
        refuse_unmigrated()
    except Unmigrated as error:
        yield str(error)
    except DatabaseError:
        pass  # said already
    with connect() as connection:
        try:
            reach(connection, _PATIENCE)
        except broker_errors(connection):
            # Orders are placed all the same: they wait in the outbox.
            if "orders" not in settings.SERVICES:
                yield "the broker can't be reached"


def _may_read(request: HttpRequest) -> bool:
    given = request.headers.get("Authorization", "").removeprefix("Bearer ").strip()
    if settings.METRICS_TOKEN and hmac.compare_digest(given.encode(), settings.METRICS_TOKEN.encode()):
        return True
    if settings.SECURE_PROXY_SSL_HEADER or "X-Forwarded-For" in request.headers or "Forwarded" in request.headers:
        return False
    return request.META.get("REMOTE_ADDR", "") in settings.METRICS_ALLOWED
