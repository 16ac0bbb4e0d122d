"""Write events and outcomes into the journal: a few statements for a whole batch.

``History`` takes part in a reaction as its ``rows``: what the reactions of one transaction add to it is written at the
end of that transaction.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any
from uuid import NAMESPACE_URL, UUID, uuid5

from pydantic_core import to_json

from choreography import Event
from choreography.core import clock, metrics
from choreography.events.declarations import Declarations
from choreography.events.messages import family_of
from choreography.storage.bulk import find, insert_new, update_rows
from journal import marks
from journal.contracts import declarations, keywords_of
from journal.flow_state import FlowState
from journal.heard import DeliveryReport, PauseReport, Status
from journal.models import ALIAS, Entry, Flow, Keyword, Outcome, Pause, ServiceStatus

_CHANGING = [
    "started_at",
    "last_at",
    "end",
    "end_at",
    "ended_at",
    "needs_person",
    "parked",
    "events",
    "mark",
    "check_at",
    "state",
]


class History:
    """What one transaction adds to the journal."""

    def __init__(self) -> None:
        self.entries: dict[UUID, Entry] = {}
        self.outcomes: dict[UUID, Outcome] = {}
        self.statuses: dict[str, ServiceStatus] = {}
        self.pauses: dict[tuple[str, str], PauseReport] = {}

    def add_event(self, event: Event[Any], data: dict[str, Any]) -> None:
        """An event was announced. ``data``: as it was published."""
        self.entries[event.id] = Entry(
            event_id=event.id,
            flow=event.correlationid or event.subject,
            type=event.type[:100],
            source=event.source[:100],
            subject=event.subject,
            caused_by=event.causationid or "",
            traceparent=event.traceparent or "",
            parent_span=event.parentspan or "",
            body=to_json(data).decode(),
            announced_at=event.time,
            published_at=event.published_at,
            recorded_at=clock.now(),
        )

    def add_outcome(self, service: str, report: DeliveryReport) -> None:
        """Something became of a delivery to ``service``."""
        if not report.flow:
            return  # an unreadable message belongs to no flow; the dead letters have it
        key = outcome_key(report)
        self.outcomes[key] = Outcome(
            key=key,
            flow=report.flow,
            event_id=report.event_id or "",
            event_type=report.event_type[:100],
            service=service,
            reaction=report.reaction,
            what=report.outcome,
            attempt=report.attempt,
            error=report.error[:300],
            dead_letter=report.dead_letter or "",
            who=report.who,
            published_at=report.published_at,
            received_at=report.received_at,
            started_at=report.started_at,
            ended_at=report.ended_at,
            next_at=report.next_at,
        )

    def add_status(self, service: str, status: Status) -> None:
        """How a service is doing. Of several, the newest counts."""
        known = self.statuses.get(service)
        if known is None or known.at < status.at:
            self.statuses[service] = ServiceStatus(service=service, **status.model_dump())

    def add_pause(self, service: str, pause: PauseReport) -> None:
        """A service pauses, or goes on. Of several for one thing that is down, the newest counts."""
        known = self.pauses.get((service, pause.dependency))
        if known is None or known.at <= pause.at:
            self.pauses[service, pause.dependency] = pause

    def write(self) -> None:
        """Write all of it, in the open transaction."""
        entries = insert_new(_sorted(self.entries), by=["event_id"], using=ALIAS)
        outcomes = insert_new(_sorted(self.outcomes), by=["key"], using=ALIAS)
        if entries or outcomes:
            _advance(entries, outcomes)
        if entries:
            words = sorted(
                {(entry.flow, *word) for entry in entries for word in keywords_of(entry.type, entry.body)},
            )
            rows = [Keyword(flow=flow, word=word, is_personal=is_personal) for flow, word, is_personal in words]
            insert_new(rows, by=["word", "flow"], using=ALIAS)
        for service in sorted(self.statuses):
            _write_status(self.statuses[service])
        for (service, dependency), pause in sorted(self.pauses.items()):
            _write_pause(service, dependency[:100], pause)


class Histories:
    """The ``rows`` of journal's reactions: one history for all events of a transaction."""

    @contextmanager
    def locked(self, subjects: Sequence[str]) -> Iterator[list[History]]:
        history = History()
        yield [history] * len(subjects)
        history.write()

    def current(self, subjects: Sequence[str]) -> list[History]:
        return [History() for _ in subjects]


def outcome_key(report: DeliveryReport) -> UUID:
    """The same for the same report. A delivery is done once; whatever else becomes of it may do so again."""
    again = "" if report.outcome == "done" else report.ended_at.isoformat()
    about = report.event_id or report.dead_letter
    return uuid5(NAMESPACE_URL, f"{about} {report.reaction} {report.outcome} {again}")


def _sorted(rows: dict[UUID, Any]) -> list[Any]:
    """In a fixed order, so that two transactions that insert the same rows don't deadlock."""
    return [rows[key] for key in sorted(rows)]


def _advance(entries: Sequence[Entry], outcomes: Sequence[Outcome]) -> None:
    """Bring the rows of the flows up to date with what is new in them."""
    declared, now = declarations(), clock.now()
    entries_of, outcomes_of = _by_flow(entries), _by_flow(outcomes)
    flows = _locked(entries_of, outcomes_of)
    states = {key: FlowState.read(flow.state) for key, flow in flows.items()}
    rough = {
        key
        for key, state in states.items()
        if state.rough or any(outcome.what not in ("done", "duplicate") for outcome in outcomes_of[key])
    }
    for key, state in _replayed(rough, declared).items():
        state.differs = states[key].differs
        states[key] = state
    for key, flow in flows.items():
        state = states[key]
        if key not in rough:
            for entry in entries_of[key]:
                state.hear(entry, declared)
            for outcome in outcomes_of[key]:
                state.learn(outcome)
        _enter(flow, state, entries_of[key], outcomes_of[key], declared)
    marks.clear([(flow, states[key]) for key, flow in flows.items()], now, declared)
    update_rows([*flows.values()], _CHANGING, ALIAS)


def _enter(
    flow: Flow, state: FlowState, entries: Sequence[Entry], outcomes: Sequence[Outcome], declared: Declarations
) -> None:
    moments = [*(entry.announced_at for entry in entries), *(outcome.ended_at for outcome in outcomes)]
    flow.started_at = min([flow.started_at, *(entry.announced_at for entry in entries)])
    flow.last_at = max([flow.last_at, *moments])
    flow.events += len(entries)
    flow.parked = len(state.parked)
    end = state.end(declared)
    for entry in entries:
        if end and family_of(entry.type) == family_of(end):
            flow.end, flow.end_at = end, entry.announced_at
    if flow.ended_at is None and end and not state.is_pending and flow.end_at is not None:
        metrics.flow_ended(end, (flow.end_at - flow.started_at).total_seconds())
    flow.ended_at = flow.last_at if end and not state.is_pending else None
    known = declared.end_of(end)
    flow.needs_person = known is not None and known.needs_person
    flow.state = state.document()


def _locked(entries: dict[str, list[Entry]], outcomes: dict[str, list[Outcome]]) -> dict[str, Flow]:
    """The flows' rows, locked; made where there are none. A row that another transaction is making is waited for."""
    keys = sorted(entries.keys() | outcomes.keys())
    found = find(Flow.objects.all(), keys, lock=True)
    missing = [key for key in keys if key not in found]
    if missing:
        insert_new([_new_flow(key, entries[key], outcomes[key]) for key in missing], by=["id"], using=ALIAS)
        found |= find(Flow.objects.all(), missing, lock=True)
    return {key: found[key] for key in keys}


def _new_flow(key: str, entries: Sequence[Entry], outcomes: Sequence[Outcome]) -> Flow:
    first = min([*(entry.announced_at for entry in entries), *(outcome.ended_at for outcome in outcomes)])
    return Flow(id=key, number=number_of(key), started_at=first, last_at=first, state={})


def number_of(flow: str) -> str:
    """A flow's id as people say it: its last eight characters, upper case."""
    return "".join(character for character in flow if character.isalnum())[-8:].upper()


def _replayed(flows: Iterable[str], declared: Declarations) -> dict[str, FlowState]:
    keys = [*flows]
    if not keys:
        return {}
    entries = _by_flow(Entry.objects.filter(flow__in=keys).defer("body"))
    outcomes = _by_flow(Outcome.objects.filter(flow__in=keys))
    return {key: FlowState.replayed(entries[key], outcomes[key], declared) for key in keys}


def _by_flow(rows: Iterable[Any]) -> dict[str, list[Any]]:
    found: dict[str, list[Any]] = defaultdict(list)
    for row in rows:
        found[row.flow].append(row)
    return found


def _write_status(status: ServiceStatus) -> None:
    known = ServiceStatus.objects.filter(pk=status.pk).first()
    if known is None or known.at < status.at:
        status.save()


def _write_pause(service: str, dependency: str, pause: PauseReport) -> None:
    known = Pause.objects.filter(service=service, dependency=dependency)
    if pause.is_over:
        known.filter(seen_at__lte=pause.at).delete()
    elif not known.filter(seen_at__gt=pause.at).exists():
        new = {"error": pause.error[:300], "since": pause.since, "seen_at": pause.at}
        Pause.objects.update_or_create(service=service, dependency=dependency, defaults=new)
