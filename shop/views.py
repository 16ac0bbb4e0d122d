"""The home page and the health check."""

from collections.abc import Iterator
from dataclasses import dataclass

from django.conf import settings
from django.db import DatabaseError, connections
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.shortcuts import render
from django.urls import reverse

from choreography.events.registry import reactions
from choreography.storage.models import DeadLetter
from choreography.storage.tables import ServiceTables


@dataclass(frozen=True)
class DeadLetters:
    """Number of parked dead letters of a service, and the URL of their list."""

    service: str
    parked: int
    url: str


def home(request: HttpRequest) -> HttpResponse:
    """The live map, for people who may view flows; else links, and parked dead letters."""
    if "journal" in settings.SERVICES and request.user.is_staff and request.user.has_perm("journal.view_flow"):
        from journal.views import live_map  # only where the journal is installed

        page: HttpResponse = live_map(request)
        return page
    context = {"dead_letters": list(_dead_letters(request)), "services": settings.SERVICES}
    return render(request, "shop/home.html", context)


def who_reacts(request: HttpRequest) -> HttpResponse:
    """All reactions: who reacts to what, and what it may announce. In production only for people who work here."""
    is_shown = settings.DEBUG or request.user.is_staff
    context = {
        "reactions": [(reaction, sorted(reaction.announces)) for reaction in reactions()] if is_shown else [],
        "is_shown": is_shown,
    }
    return render(request, "shop/reactions.html", context)


def flower(request: HttpRequest) -> dict[str, str]:
    """Context of every page: the address of Flower, for people who work here."""
    is_shown = settings.DEBUG or (hasattr(request, "user") and request.user.is_staff)
    return {"flower_url": settings.FLOWER_URL if is_shown else ""}


def healthz(request: HttpRequest) -> JsonResponse:
    """200 if every database of this process responds, else 503 with the names of those that don't."""
    down = []
    for alias in connections:
        try:
            with connections[alias].cursor() as cursor:
                cursor.execute("SELECT 1")
        except DatabaseError:
            down.append(alias)
    return JsonResponse({"databases_down": down}, status=503 if down else 200)


def _dead_letters(request: HttpRequest) -> Iterator[DeadLetters]:
    """The dead letters that the user may view."""
    for service in settings.SERVICES:
        if request.user.is_staff and request.user.has_perm(f"{service}.view_deadletter"):
            parked = ServiceTables(service).dead_letters.filter(state=DeadLetter.State.PARKED).count()
            yield DeadLetters(service, parked, reverse(f"admin:{service}_deadletter_changelist"))
