"""What journal can do: find flows, tell the story of one, forget a person."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from django.db.models import Count, Q, QuerySet

from journal.models import Entry, Flow, Keyword
from journal.story import Story

#: Events of one type, or of one service, among whose flows a search looks: the newest.
LOOKED_AT = 5_000
#: Flows on one page.
PAGE = 50

#: What ``state`` may be, and which flows that are.
STATES: Final = {
    "running": Q(ended_at=None),
    "ended": Q(ended_at__isnull=False),
    "marked": ~Q(mark=""),
    "overdue": Q(mark=Flow.Mark.MISSING),
    "illegal": Q(mark=Flow.Mark.ILLEGAL),
    "stalled": Q(mark=Flow.Mark.STALLED),
    "different": Q(mark=Flow.Mark.DIFFERENT),
    "parked": Q(parked__gt=0),
    "person": Q(needs_person=True),
}


@dataclass(frozen=True)
class Search:
    """What is looked for. Empty fields don't count."""

    words: str = ""
    """An order's number or id, an e-mail address, a tracking number."""
    state: str = ""
    event_type: str = ""
    service: str = ""
    since: datetime | None = None
    until: datetime | None = None


@dataclass(frozen=True)
class Page:
    """Flows, the newest first, and where the next page begins."""

    flows: Sequence[Flow]
    after: str
    """The key to give for the next page; empty if this is the last."""


def flow_of(name: str) -> Flow | None:
    """The flow with this id, or with this number if only one has it."""
    found = Flow.objects.filter(pk=name).first()
    if found is None:
        numbered = [*Flow.objects.filter(number=name.upper())[:2]]
        found = numbered[0] if len(numbered) == 1 else None
    return found


def story_of(flow: Flow, *, personal: bool) -> Story:
    """The story of a flow. ``personal``: with the fields that its contracts mark as personal."""
    return Story(flow, personal=personal)


def find_flows(search: Search, after: str = "", size: int = PAGE, *, personal: bool = True) -> Page:
    """A page of the flows that are looked for, the newest first.

    Args:
        after: where the page begins: ``Page.after`` of the one before.
        personal: whether words that are personal, such as an e-mail address, may be looked for.

    Raises:
        ValueError: ``after`` is no such key.
    """
    flows = _matching(search, personal=personal).order_by("-started_at", "-id")
    if after:
        moment, _, key = after.partition("_")
        at = datetime.fromisoformat(moment)
        flows = flows.filter(Q(started_at__lt=at) | Q(started_at=at, id__lt=key), started_at__lte=at)
    found = [*flows.defer("state")[: size + 1]]
    last = found[size - 1] if len(found) > size else None
    return Page(found[:size], f"{last.started_at.isoformat()}_{last.pk}" if last else "")


def count_flows() -> dict[str, int]:
    """How many flows are in each state that somebody should know of. One query."""
    states = ("running", "overdue", "illegal", "stalled", "different", "parked", "person")
    counts = Flow.objects.filter(Q(ended_at=None) | ~Q(mark="") | Q(parked__gt=0) | Q(needs_person=True))
    return dict(counts.aggregate(**{state: Count("pk", filter=STATES[state]) for state in states}))


def all_flows(search: Search, most: int, *, personal: bool) -> Iterator[Flow]:
    """The flows that are looked for, page by page, ``most`` at most."""
    after = ""
    while most > 0:
        page = find_flows(search, after, min(1000, most), personal=personal)
        yield from page.flows
        most, after = most - len(page.flows), page.after
        if not after:
            return


def _matching(search: Search, *, personal: bool) -> QuerySet[Flow]:
    flows = Flow.objects.all()
    if search.words:
        flows = flows.filter(pk__in=_named(search.words.strip(), personal=personal))
    if search.state in STATES:
        flows = flows.filter(STATES[search.state])
    for name, value in (("type", search.event_type), ("source", search.service)):
        if value:
            newest = Entry.objects.filter(**{name: value}).order_by("-id")
            flows = flows.filter(pk__in=newest.values("flow")[:LOOKED_AT])
    if search.since:
        flows = flows.filter(started_at__gte=search.since)
    if search.until:
        flows = flows.filter(started_at__lte=search.until)
    return flows


def _named(words: str, *, personal: bool) -> list[Any]:
    """The flows that these words name."""
    keywords = Keyword.objects.filter(word=words.lower())
    if not personal:
        keywords = keywords.filter(is_personal=False)
    number = words.lstrip("#").upper()
    return [
        *keywords.order_by("-id").values_list("flow", flat=True)[:1000],
        *Flow.objects.filter(Q(pk=words) | Q(number=number)).values_list("pk", flat=True)[:1000],
    ]
