"""The journal's pages: one flow, all flows, the live map, latency. For people who may view flows."""

import csv
from collections.abc import Callable, Iterator
from datetime import datetime
from functools import wraps
from typing import Any
from urllib.parse import urlencode

from django.conf import settings
from django.contrib.admin.utils import quote
from django.contrib.admin.views.decorators import staff_member_required
from django.core.exceptions import PermissionDenied
from django.http import Http404, HttpRequest, HttpResponse, JsonResponse, StreamingHttpResponse
from django.shortcuts import redirect, render
from django.template.loader import render_to_string
from django.urls import reverse
from django.utils import timezone
from django.utils.dateparse import parse_date, parse_datetime
from django.utils.translation import gettext as _

from journal import live, percentiles
from journal import reconciliation as reconciling
from journal.contracts import contracts, declarations, event_types
from journal.drawing import draw
from journal.models import Flow
from journal.services import PAGE, STATES, Search, all_flows, find_flows, flow_of, story_of
from journal.story import Story

#: htmx stops polling at an answer with this status (https://htmx.org/docs/#polling).
_STOP_POLLING = 286
#: Rows of a CSV file, at most.
_MOST_ROWS = 100_000

_COLUMNS = ["flow", "number", "started_at", "ended_at", "end", "events", "mark", "parked", "needs_person"]

View = Callable[..., Any]


def for_viewers(view: View) -> View:
    """Only for staff with the permission to view flows; anybody else is led to the login."""

    @wraps(view)
    def guarded(request: HttpRequest, *args: Any, **kwargs: Any) -> Any:
        if not request.user.has_perm("journal.view_flow"):
            raise PermissionDenied(_("You may not view flows. Ask for the permission journal.view_flow."))
        return view(request, *args, **kwargs)

    return staff_member_required(guarded)


@for_viewers
def flow(request: HttpRequest, flow: str) -> HttpResponse:
    """One flow: what happened, what is pending, what is wrong, what can be done about it."""
    found = flow_of(flow)
    if found is None:
        return render(request, "journal/no_flow.html", {"name": flow}, status=404)
    if found.pk != flow:
        return redirect("flow", flow=found.pk)
    story = _story(request, found)
    context = {
        "story": story,
        "drawing": draw(story),
        "links": list(_links(request, story)),
        "contracts": contracts(),
        "flower_url": settings.FLOWER_URL,
        "version": _version(found),
    }
    if not getattr(request, "htmx", False):
        return render(request, "journal/flow.html", context)
    if request.GET.get("version") == context["version"] and story.is_running and not _has_countdown(story):
        return HttpResponse(status=204)
    return render(
        request, "journal/story.html", context, status=200 if story.is_running or story.parked else _STOP_POLLING
    )


@for_viewers
def flow_json(request: HttpRequest, flow: str) -> JsonResponse:
    """The story of a flow for a program."""
    return JsonResponse(_story(request, _existing(flow)).as_json())


@for_viewers
def flow_svg(request: HttpRequest, flow: str) -> HttpResponse:
    """The sequence diagram of a flow."""
    story = _story(request, _existing(flow))
    svg = render_to_string("journal/sequence.svg", {"story": story, "drawing": draw(story)})
    return HttpResponse(svg, content_type="image/svg+xml")


@for_viewers
def flows(request: HttpRequest) -> HttpResponse:
    """All flows, or those that are looked for, the newest first."""
    search, faults = _search(request)
    words = search.words
    if words and (one := flow_of(words)) is not None and not request.GET.get("list"):
        return redirect("flow", flow=one.pk)
    after = request.GET.get("after", "")
    try:
        page = find_flows(search, after, personal=_may_see_personal(request))
    except ValueError:
        faults.append(_("The page to begin with is none of this list."))
        page = find_flows(search, personal=_may_see_personal(request))
    query = {name: value for name, value in request.GET.items() if value and name != "after"}
    context = {
        "page": page,
        "search": search,
        "faults": faults,
        "states": STATES,
        "event_types": event_types(),
        "services": declarations().services,
        "query": urlencode(query),
        "next": urlencode(query | {"after": page.after}) if page.after else "",
        "is_first": not after,
        "given": request.GET,
        "size": PAGE,
    }
    return render(request, "journal/flows.html", context)


@for_viewers
def flows_csv(request: HttpRequest) -> StreamingHttpResponse:
    """The same as a file for a spreadsheet."""
    search, _faults = _search(request)
    rows = all_flows(search, _MOST_ROWS, personal=_may_see_personal(request))
    response = StreamingHttpResponse(_csv(rows), content_type="text/csv; charset=utf-8")
    response["Content-Disposition"] = 'attachment; filename="flows.csv"'
    return response


@for_viewers
def dead_letters_of(request: HttpRequest, service: str, event_id: str) -> HttpResponse:
    """Lead to what a service could not handle of an event, in the admin of the process that has the service."""
    if service not in settings.SERVICES:
        raise Http404(_("%s runs elsewhere: its dead letters are in the admin there.") % service)
    return redirect(f"{reverse(f'admin:{service}_deadletter_changelist')}?{urlencode({'q': event_id})}")


@for_viewers
def live_map(request: HttpRequest) -> HttpResponse:
    """The services and their events as they are now, and the latest flows."""
    context = {"map": live.look(), "latest": find_flows(Search(), size=12).flows}
    template = "journal/map_now.html" if getattr(request, "htmx", False) else "journal/map.html"
    return render(request, template, context)


@for_viewers
def latency(request: HttpRequest) -> HttpResponse:
    """How long flows and their hops take: p50, p95 and p99 over the last hour, day or week."""
    span = request.GET.get("span", "hour")
    context = {"charts": percentiles.charts(span), "spans": percentiles.SPANS, "span": span}
    return render(request, "journal/latency.html", context)


@for_viewers
def reconciliation(request: HttpRequest) -> HttpResponse:
    """What the services' own rows say of each hour, beside what the journal has."""
    hours = reconciling.hours(_moment(request.GET.get("before", "")))
    different = Flow.objects.filter(mark=Flow.Mark.DIFFERENT).count()
    older = hours[-1].begins.isoformat() if len(hours) == reconciling.PAGE else ""
    context = {"hours": hours, "different": different, "older": older}
    return render(request, "journal/reconciliation.html", context)


def _existing(name: str) -> Flow:
    found = flow_of(name)
    if found is None:
        raise Http404(_("The journal has no flow %s.") % name)
    return found


def _story(request: HttpRequest, found: Flow) -> Story:
    return story_of(found, personal=_may_see_personal(request))


def _may_see_personal(request: HttpRequest) -> bool:
    return bool(request.user.has_perm("journal.view_personal"))


def _version(found: Flow) -> str:
    """Changes with every change of the flow."""
    return f"{found.last_at.timestamp()}-{found.events}-{found.parked}-{found.mark}-{found.ended_at is not None}"


def _has_countdown(story: Story) -> bool:
    return any(handling.next_at for handling in story.handlings) or bool(story.expected)


def _links(request: HttpRequest, story: Story) -> Iterator[tuple[str, str]]:
    """The rows that the services of this process have of the flow's subject, in the admin."""
    from choreography.admin.tables import subject_model  # here, as it reads the admin's registry

    for service in story.services:
        if service in settings.SERVICES:
            model = subject_model(service)
            if model is not None and request.user.has_perm(f"{service}.view_{model._meta.model_name}"):
                name = f"admin:{service}_{model._meta.model_name}_change"
                yield str(model._meta.verbose_name), reverse(name, args=[quote(story.flow.pk)])


def _search(request: HttpRequest) -> tuple[Search, list[str]]:
    given, faults = request.GET, []
    moments: dict[str, datetime | None] = {}
    for name in ("since", "until"):
        text = given.get(name, "").strip()
        moments[name] = _moment(text)
        if text and moments[name] is None:
            faults.append(_("%s is no date: write 2026-01-31 or 2026-01-31T12:00.") % text[:40])
    search = Search(
        words=given.get("q", "").strip()[:200],
        state=given.get("state", ""),
        event_type=given.get("type", ""),
        service=given.get("service", ""),
        **moments,
    )
    return search, faults


def _moment(text: str) -> datetime | None:
    try:
        moment = parse_datetime(text)
        day = parse_date(text)
    except ValueError:
        return None
    if moment is None and day is not None:
        moment = datetime.combine(day, datetime.min.time())
    if moment is not None and moment.tzinfo is None:
        moment = timezone.make_aware(moment)
    return moment


class _Echo:
    """A file that returns what is written to it."""

    def write(self, value: str) -> str:
        return value


def _csv(flows: Iterator[Flow]) -> Iterator[str]:
    writer = csv.writer(_Echo())
    yield writer.writerow(
        ["flow", "number", "started_at", "ended_at", "end", "events", "mark", "parked", "needs_person"]
    )
    for each in flows:
        yield writer.writerow(
            [
                _harmless(each.pk),
                each.number,
                each.started_at.isoformat(),
                each.ended_at.isoformat() if each.ended_at else "",
                each.end,
                each.events,
                each.mark,
                each.parked,
                each.needs_person,
            ]
        )


def _harmless(text: str) -> str:
    """A cell that a spreadsheet does not take for a formula."""
    return f"'{text}" if text.startswith(("=", "+", "-", "@", "\t", "\r")) else text
