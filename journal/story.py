"""The story of one flow: its events in order, and what became of each in every service. Read only, five queries."""

import json
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import cached_property
from typing import Any, Literal

from django.utils.translation import gettext as _

from choreography.core import clock
from choreography.events.declarations import Declarations, DeclaredReaction
from choreography.events.personal import masked
from journal.contracts import declarations
from journal.durations import duration
from journal.flow_state import FlowState, short_id
from journal.latency import between
from journal.models import Entry, Flow, MarkOfFlow, Outcome, Pause, Pauses

Standing = Literal["done", "pending", "retrying", "waiting", "paused", "parked", "discarded"]

#: Failed attempts of one delivery that are told, the last ones.
_TOLD = 4


@dataclass
class Handling:
    """What became of one event in one reaction."""

    reaction: str
    event_type: str
    event_id: str
    outcomes: list[Outcome]
    calls: str = ""
    announced_at: datetime | None = None
    pause: Pauses | None = None
    """What its service pauses for at this moment."""

    @property
    def service(self) -> str:
        return self.reaction.partition(".")[0] if self.reaction else self.outcomes[0].service

    @property
    def name(self) -> str:
        return self.reaction.partition(".")[2] or "unreadable"

    @property
    def last(self) -> Outcome | None:
        return self.outcomes[-1] if self.outcomes else None

    @cached_property
    def done(self) -> Outcome | None:
        """The outcome with which it took effect."""
        return next((each for each in self.outcomes if each.what == "done"), None)

    @property
    def standing(self) -> Standing:
        """How it stands now."""
        if self.done or (self.last and self.last.what == "duplicate"):
            return "done"
        match self.last.what if self.last else "":
            case "parked":
                return "parked"
            case "discarded":
                return "discarded"
            case "waiting":
                return "waiting"
            case "retried" if self.pause is None:
                return "retrying"
        return "paused" if self.pause else "pending"

    @property
    def failures(self) -> list[Outcome]:
        """The attempts that did not take effect, and what people did, before the end."""
        return [each for each in self.outcomes if each.what not in ("done", "duplicate")]

    @property
    def duplicates(self) -> int:
        return sum(1 for each in self.outcomes if each.what == "duplicate")

    @property
    def began_at(self) -> datetime | None:
        first = self.outcomes[0] if self.outcomes else None
        return (first.started_at or first.ended_at) if first else None

    @property
    def last_began_at(self) -> datetime | None:
        """When its last attempt began; ``None`` while there is more to come."""
        if self.standing not in ("done", "parked", "discarded"):
            return None
        chosen = self.done or self.last
        return (chosen.started_at or chosen.ended_at) if chosen else None

    @property
    def queue_seconds(self) -> float | None:
        """How long the first delivery was in the queue."""
        first = self.outcomes[0] if self.outcomes else None
        return between(first.published_at, first.received_at or first.started_at) if first else None

    @property
    def handle_seconds(self) -> float | None:
        """How long the reaction took, the last time."""
        chosen = self.done or self.last
        return between(chosen.started_at, chosen.ended_at) if chosen else None

    @property
    def next_at(self) -> datetime | None:
        """When the next attempt is due."""
        return self.last.next_at if self.last and self.standing in ("retrying", "waiting") else None

    @property
    def error(self) -> str:
        if self.pause and self.standing == "paused":
            return f"{self.service} pauses: {self.pause}"
        return self.last.error if self.last and self.standing != "done" else ""


@dataclass
class Told:
    """An event, with what became of it everywhere."""

    entry: Entry
    data: Any
    handlings: list[Handling] = field(default_factory=list)
    is_compensation: bool = False
    is_end: bool = False

    @property
    def name(self) -> str:
        return self.entry.type.split(".")[1]

    @property
    def version(self) -> str:
        return self.entry.type.rpartition(".")[2]

    @property
    def short(self) -> str:
        return short_id(str(self.entry.event_id))

    @property
    def outbox_seconds(self) -> float | None:
        return between(self.entry.announced_at, self.entry.published_at)

    @property
    def body(self) -> str:
        return json.dumps(self.data, indent=2, ensure_ascii=False)


@dataclass(frozen=True)
class Expected:
    """An event that is still to come."""

    after: str
    one_of: tuple[str, ...]
    service: str
    by: datetime
    is_overdue: bool

    @property
    def names(self) -> str:
        return " or ".join(event_type.split(".")[1] for event_type in self.one_of)


@dataclass(frozen=True)
class Failure:
    """What became of a delivery before the end: an attempt that failed, or what a person did."""

    handling: Handling
    outcome: Outcome

    @property
    def text(self) -> str:
        """``authorize_payment retried, again after 1.2 s: GatewayError: ...``."""
        outcome = self.outcome
        wait = between(outcome.ended_at, outcome.next_at)
        again = f", {_('again after')} {duration(wait)}" if wait is not None else ""
        return f"{self.handling.name} {outcome.what.replace('_', ' ')}{again}: {outcome.error or outcome.who}"


Row = Told | Handling | Failure


class Story:
    """Everything that is known of a flow, and what the services that it waits for pause for."""

    def __init__(self, flow: Flow, *, personal: bool) -> None:
        self.flow = flow
        self.personal = personal
        self.now = clock.now()
        self._declared = declarations()
        self._state = FlowState.read(flow.state)
        self._entries = [*Entry.objects.filter(flow=flow.pk)]
        self._outcomes = [*Outcome.objects.filter(flow=flow.pk).order_by("ended_at", "id")]
        self.marks = [*MarkOfFlow.objects.filter(flow=flow.pk).order_by("-since")]
        self._pauses = Pause.objects.going_on() if self.is_running else {}

    @cached_property
    def events(self) -> list[Told]:
        """The events, each after the one that caused it."""
        handlings = _by_event(self._outcomes, self._declared)
        told = [self._tell(entry, handlings.pop(str(entry.event_id), {})) for entry in self._entries]
        return _in_order(told)

    @cached_property
    def strays(self) -> list[Handling]:
        """What became of events that the journal has not heard of."""
        found = _by_event(self._outcomes, self._declared)
        for entry in self._entries:
            found.pop(str(entry.event_id), None)
        return [handling for by_reaction in found.values() for handling in by_reaction.values()]

    @cached_property
    def rows(self) -> list[Row]:
        """Events, reactions and failed attempts by time; nothing before what caused it. What is pending comes last."""
        rows: list[tuple[datetime, int, Row]] = []
        placed: dict[str, datetime] = {}
        for order, told in enumerate(self.events):
            at = told.entry.announced_at
            cause = placed.get(f"{told.entry.caused_by} {told.entry.source}")
            at = max(at, cause) if cause else at
            rows.append((at, 2 * order, told))
            for handling in told.handlings:
                rows += _rows_of(handling, at, 2 * order + 1)
                placed[f"{told.entry.event_id} {handling.service}"] = rows[-1][0]
        for stray in self.strays:
            rows += _rows_of(stray, self.flow.started_at, -1)
        return [row for *_time, row in sorted(rows, key=lambda row: row[:2])]

    @property
    def expected(self) -> list[Expected]:
        """What is still to come."""
        found = []
        for each in self._declared.expectations:
            due = self._state.due.get(f"{each.after} {each.one_of[0]}")
            if due is not None:
                by = datetime.fromisoformat(due)
                found.append(Expected(each.after, each.one_of, each.service, by, by <= self.now))
        return found

    @property
    def standing_marks(self) -> list[MarkOfFlow]:
        return [mark for mark in self.marks if mark.cleared_at is None]

    @property
    def cleared_marks(self) -> list[MarkOfFlow]:
        return [mark for mark in self.marks if mark.cleared_at is not None]

    @property
    def handlings(self) -> list[Handling]:
        return [handling for told in self.events for handling in told.handlings] + self.strays

    @property
    def parked(self) -> list[Handling]:
        return [handling for handling in self.handlings if handling.standing == "parked"]

    @property
    def is_running(self) -> bool:
        """Something may still happen by itself."""
        return self.flow.ended_at is None

    @property
    def seconds(self) -> float:
        """From the first event to the last, or to now."""
        return max(((self.flow.ended_at or self.now) - self.flow.started_at).total_seconds(), 0.0)

    @property
    def services(self) -> list[str]:
        """The services that take part, in the order of their first appearance."""
        found: dict[str, None] = {}
        for told in self.events:
            found.setdefault(told.entry.source)
            for handling in sorted(told.handlings, key=lambda each: (each.began_at is None, each.began_at or self.now)):
                found.setdefault(handling.service)
        return [*found]

    def as_json(self) -> dict[str, Any]:
        """The story for a program. Times are ISO 8601, durations seconds."""
        flow = self.flow
        return {
            "flow": flow.pk,
            "number": flow.number,
            "started_at": flow.started_at,
            "ended_at": flow.ended_at,
            "end": flow.end,
            "needs_person": flow.needs_person,
            "mark": flow.mark,
            "marks": [
                {
                    "kind": mark.kind,
                    "what": mark.what,
                    "culprit": mark.culprit,
                    "remedy": mark.remedy,
                    "since": mark.since,
                    "cleared_at": mark.cleared_at,
                }
                for mark in self.marks
            ],
            "events": [self._event_as_json(told) for told in self.events],
            "expected": [
                {"after": each.after, "one_of": each.one_of, "service": each.service, "by": each.by}
                for each in self.expected
            ],
        }

    def _event_as_json(self, told: Told) -> dict[str, Any]:
        entry = told.entry
        return {
            "id": str(entry.event_id),
            "type": entry.type,
            "source": entry.source,
            "caused_by": entry.caused_by or None,
            "announced_at": entry.announced_at,
            "published_at": entry.published_at,
            "outbox_seconds": told.outbox_seconds,
            "data": told.data,
            "handlings": [
                {
                    "reaction": handling.reaction,
                    "standing": handling.standing,
                    "queue_seconds": handling.queue_seconds,
                    "handle_seconds": handling.handle_seconds,
                    "next_at": handling.next_at,
                    "outcomes": [
                        {
                            "what": outcome.what,
                            "attempt": outcome.attempt,
                            "error": outcome.error,
                            "who": outcome.who,
                            "received_at": outcome.received_at,
                            "started_at": outcome.started_at,
                            "ended_at": outcome.ended_at,
                            "next_at": outcome.next_at,
                        }
                        for outcome in handling.outcomes
                    ],
                }
                for handling in told.handlings
            ],
        }

    def _tell(self, entry: Entry, handlings: dict[str, Handling]) -> Told:
        data = json.loads(entry.body)
        for reaction in self._declared.reactions:
            if reaction.hears(entry.type) and reaction.name not in handlings:
                handlings[reaction.name] = _blank(reaction, entry)
        for handling in handlings.values():
            handling.announced_at = entry.announced_at
            handling.pause = self._pauses.get(handling.service)
        return Told(
            entry,
            data if self.personal else masked(entry.type, data),
            [*handlings.values()],
            is_compensation=self._declared.is_compensation(entry.type),
            is_end=self._declared.end_of(entry.type) is not None,
        )


def _rows_of(handling: Handling, not_before: datetime, order: int) -> Iterator[tuple[datetime, int, Row]]:
    """Its last failures, then itself, each with its time."""
    failures = handling.failures
    if handling.standing in ("parked", "discarded"):
        failures = failures[:-1]
    at = not_before
    for outcome in failures[-_TOLD:]:
        at = max(at, outcome.ended_at)
        yield at, order, Failure(handling, outcome)
    began = handling.last_began_at
    yield max(at, began) if began else datetime.max.replace(tzinfo=at.tzinfo), order, handling


def _blank(reaction: DeclaredReaction, entry: Entry) -> Handling:
    return Handling(reaction.name, entry.type, str(entry.event_id), [], reaction.calls)


def _by_event(outcomes: Iterable[Outcome], declared: Declarations) -> dict[str, dict[str, Handling]]:
    """Handlings by event and reaction."""
    calls = {reaction.name: reaction.calls for reaction in declared.reactions}
    found: dict[str, dict[str, Handling]] = defaultdict(dict)
    for outcome in outcomes:
        of_event = found[outcome.event_id]
        if outcome.reaction not in of_event:
            of_event[outcome.reaction] = Handling(
                outcome.reaction, outcome.event_type, outcome.event_id, [], calls.get(outcome.reaction, "")
            )
        of_event[outcome.reaction].outcomes.append(outcome)
    return found


def _in_order(events: Sequence[Told]) -> list[Told]:
    """By time; but no event before its cause, whatever the clocks of two processes say."""
    by_time = sorted(events, key=lambda each: (each.entry.announced_at, each.entry.id))
    waiting = {str(told.entry.event_id): told for told in by_time}
    ordered: list[Told] = []
    for told in by_time:
        event_id, causes = str(told.entry.event_id), []
        while cause := waiting.pop(event_id, None):
            causes.append(cause)
            event_id = cause.entry.caused_by
        ordered += reversed(causes)
    return ordered
