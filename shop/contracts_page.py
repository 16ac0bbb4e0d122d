"""The pages about events: what each says, who announces it, and who reads which field."""

from django.conf import settings
from django.contrib.auth.views import redirect_to_login
from django.http import Http404, HttpRequest, HttpResponse, JsonResponse
from django.shortcuts import render
from django.utils.translation import gettext as _

from choreography.events.catalog import CatalogEvent, catalog
from choreography.operations.asyncapi import document


def contracts(request: HttpRequest) -> HttpResponse:
    """All events, or those that are looked for. In production only for people who work here."""
    if not _is_shown(request):
        return redirect_to_login(request.get_full_path())
    words = request.GET.get("q", "")
    events = _catalog()
    context = {"words": words, "events": [event for event in events if event.matches(words)], "total": len(events)}
    template = "shop/contracts_found.html" if getattr(request, "htmx", False) else "shop/contracts.html"
    return render(request, template, context)


def contract(request: HttpRequest, event_type: str) -> HttpResponse:
    """One event."""
    if not _is_shown(request):
        return redirect_to_login(request.get_full_path())
    event = next((each for each in _catalog() if each.event_type == event_type), None)
    if event is None:
        raise Http404(_("There is no event %s.") % event_type)
    return render(request, "shop/contract.html", {"event": event})


def asyncapi(request: HttpRequest) -> HttpResponse:
    """The events as an AsyncAPI document."""
    if not _is_shown(request):
        return redirect_to_login(request.get_full_path())
    return JsonResponse(document(title="Shop", version="1.0.0"), json_dumps_params={"indent": 2})


def _catalog() -> list[CatalogEvent]:
    return catalog(settings.BASE_DIR / "CHANGELOG.md")


def _is_shown(request: HttpRequest) -> bool:
    return bool(settings.DEBUG or request.user.is_staff)
