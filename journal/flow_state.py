"""How a flow stands: what is pending in it, what is overdue, how it ended. Worked out from events and outcomes alone.

A ``FlowState`` is a small document in the flow's row. An event, and a delivery that is done, change it in place. Where
a delivery failed, was parked or was sent again, the order of what happened counts: then the whole flow is worked out
anew from its rows (``replayed``), for reports of several workers may arrive in another order.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, NamedTuple, Self

from choreography.events.declarations import Declarations
from choreography.events.expectations import Expectation
from choreography.events.messages import family_of
from journal.models import Entry, Flow, Outcome

#: A delivery must have an outcome this long after its event was announced, or its next attempt was due.
DELIVERY_WITHIN = timedelta(seconds=45)
#: A flow in which nothing is pending, and which has not ended, has stalled after this.
STALLED_AFTER = timedelta(seconds=30)
#: Outcomes after which nothing more is to come of a delivery.
_FINAL = ("done", "duplicate", "discarded")


class Finding(NamedTuple):
    """Something wrong with a flow."""

    mark: Flow.Mark
    what: str
    service: str
    """Which service should have acted."""
    reaction: str = ""
    """The delivery that has no outcome, if that is what is missing."""


@dataclass
class FlowState:
    """What is known of a flow. Times are ISO 8601 texts, as JSON has them."""

    events: dict[str, str] = field(default_factory=dict)
    """The types of its events, by short id."""
    open: dict[str, str] = field(default_factory=dict)
    """Deliveries without a final outcome, ``<short id> <reaction>``, and when they are overdue."""
    early: list[str] = field(default_factory=list)
    """Deliveries with a final outcome whose event has not been heard yet."""
    due: dict[str, str] = field(default_factory=dict)
    """Expectations, ``<after> <first of one_of>``, and when they are overdue."""
    parked: dict[str, str] = field(default_factory=dict)
    """The deliveries of parked dead letters, by the dead letter's key."""
    illegal: str = ""
    """What can't be, if there is anything."""
    differs: dict[str, str] = field(default_factory=dict)
    """How what a service's own rows say differs from what the journal has, by service (``reconciliation``)."""
    discarded: bool = False
    """A person has discarded a delivery, and decided with it that nothing follows."""
    rough: bool = False
    """A delivery has failed: it is worked out anew with each change."""

    @classmethod
    def read(cls, document: dict[str, Any]) -> Self:
        return cls(**document)

    @classmethod
    def replayed(cls, entries: Iterable[Entry], outcomes: Iterable[Outcome], declared: Declarations) -> Self:
        """What follows from all rows of a flow."""
        state = cls(rough=True)
        for entry in sorted(entries, key=lambda entry: (entry.announced_at, entry.event_id)):
            state.hear(entry, declared)
        for outcome in sorted(outcomes, key=lambda outcome: (outcome.ended_at, outcome.what in _FINAL)):
            state.learn(outcome)
        return state

    def document(self) -> dict[str, Any]:
        """As JSON takes it, without what is empty."""
        return {name: value for name, value in vars(self).items() if value}

    def hear(self, entry: Entry, declared: Declarations) -> None:
        """An event was announced."""
        short, types = short_id(str(entry.event_id)), {*map(family_of, self.events.values())}
        self._refuse_illegal(entry, types, declared)
        self.events[short] = entry.type
        for reaction in declared.reactions:
            if reaction.hears(entry.type):
                key = f"{short} {reaction.name}"
                if key in self.early:
                    self.early.remove(key)
                else:
                    self.open[key] = (entry.announced_at + DELIVERY_WITHIN).isoformat()
        family = family_of(entry.type)
        types.add(family)
        for expectation in declared.expectations:
            following = {*map(family_of, expectation.one_of)}
            if family in following:
                self.due.pop(_key_of(expectation), None)
            if family == family_of(expectation.after) and types.isdisjoint(following):
                self.due[_key_of(expectation)] = (entry.announced_at + expectation.within).isoformat()

    def learn(self, outcome: Outcome) -> None:
        """Something became of a delivery."""
        short = short_id(outcome.event_id)
        key = f"{short} {outcome.reaction}"
        if outcome.what in _FINAL:
            self._close(key, is_known=short in self.events)
            self.parked.pop(outcome.dead_letter, None)
            self.discarded = self.discarded or outcome.what == "discarded"
        elif outcome.what == "parked":
            self._close(key, is_known=short in self.events)
            self.parked[outcome.dead_letter] = key
        elif outcome.what == "sent_again":
            self.parked.pop(outcome.dead_letter, None)
            self.open[key] = (outcome.ended_at + DELIVERY_WITHIN).isoformat()
        elif key in self.open:
            self.open[key] = ((outcome.next_at or outcome.ended_at) + DELIVERY_WITHIN).isoformat()

    def end(self, declared: Declarations) -> str:
        """The event that ends the flow, if it has been announced. One that asks for a person ends it only alone."""
        found = [end for event_type in self.events.values() if (end := declared.end_of(event_type)) is not None]
        return min(found, key=lambda end: end.needs_person).event_type if found else ""

    @property
    def is_pending(self) -> bool:
        """Something is still to come, by itself or by a person."""
        return bool(self.open or self.due or self.parked)

    def findings(self, last_at: datetime, now: datetime, declared: Declarations) -> list[Finding]:
        """What is wrong with the flow now, the worst first."""
        found = [Finding(Flow.Mark.ILLEGAL, self.illegal, "")] if self.illegal else []
        found += [self._about_delivery(key) for key, due in self.open.items() if _is_past(due, now)]
        for expectation in declared.expectations:
            due = self.due.get(_key_of(expectation))
            if due is not None and _is_past(due, now):
                found.append(_about_expectation(expectation))
        found += [Finding(Flow.Mark.DIFFERENT, what, service) for service, what in self.differs.items()]
        if not found and self._may_stall(declared) and now - last_at >= STALLED_AFTER:
            what = f"nothing is pending since {last_at:%H:%M:%S} UTC, and the flow has not ended"
            found.append(Finding(Flow.Mark.STALLED, what, ""))
        return found

    def check_at(self, last_at: datetime, now: datetime, declared: Declarations) -> datetime | None:
        """When the flow may next become overdue or stalled."""
        moments = [datetime.fromisoformat(due) for due in (*self.open.values(), *self.due.values())]
        if self._may_stall(declared):
            moments.append(last_at + STALLED_AFTER)
        return min((moment for moment in moments if moment > now), default=None)

    def _may_stall(self, declared: Declarations) -> bool:
        return bool(self.events) and not (self.is_pending or self.discarded or self.end(declared))

    def _close(self, key: str, *, is_known: bool) -> None:
        if self.open.pop(key, None) is None and not is_known and key not in self.early:
            self.early.append(key)
        self.parked = {dead_letter: parked for dead_letter, parked in self.parked.items() if parked != key}

    def _about_delivery(self, key: str) -> Finding:
        short, _, reaction = key.partition(" ")
        what = f"{reaction} has not said what became of {self.events.get(short, 'an event')}"
        return Finding(Flow.Mark.MISSING, what, reaction.partition(".")[0], reaction)

    def _refuse_illegal(self, entry: Entry, types: set[str], declared: Declarations) -> None:
        """An event that excludes another, or that no reaction to its cause may announce."""
        for exclusion in declared.exclusions:
            pair, family = {family_of(exclusion.one), family_of(exclusion.other)}, family_of(entry.type)
            if family in pair and not types.isdisjoint(pair - {family}):
                self.illegal = f"{exclusion.one} and {exclusion.other} exclude each other"
        cause = self.events.get(short_id(entry.caused_by))
        if cause is None or entry.source not in declared.services:
            return
        allowed = any(
            reaction.service == entry.source and reaction.hears(cause) and reaction.may_announce(entry.type)
            for reaction in declared.reactions
        )
        if not allowed:
            self.illegal = f"no reaction of {entry.source} to {cause} may announce {entry.type}"


def short_id(event_id: str) -> str:
    """Enough of an event's id to tell it from others of its flow."""
    return event_id.replace("-", "")[-12:]


def _key_of(expectation: Expectation) -> str:
    return f"{expectation.after} {expectation.one_of[0]}"


def _about_expectation(expectation: Expectation) -> Finding:
    wanted = " or ".join(expectation.one_of)
    seconds = expectation.within.total_seconds()
    what = f"{wanted} did not follow {expectation.after} within {seconds:g} s"
    return Finding(Flow.Mark.MISSING, what, expectation.service)


def _is_past(due: str, now: datetime) -> bool:
    return datetime.fromisoformat(due) <= now
