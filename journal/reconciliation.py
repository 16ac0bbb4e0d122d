"""Compare what the services' own rows say, hour by hour, with what the journal has heard.

A service announces an account of each hour (``choreography.events.accounts``). Only flows that had ended when the rows
were read are compared: the others are still changing. A later account of the same hour has them.
"""

import json
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, NamedTuple

from django.db.models import Q

from choreography.core import clock
from choreography.events.messages import family_of
from choreography.storage.bulk import find, insert_new, update_rows
from common.money import display
from journal import marks
from journal.contracts import declarations
from journal.flow_state import FlowState
from journal.heard import Account as Told
from journal.heard import SubjectAccount
from journal.history import number_of
from journal.models import ALIAS, Account, Entry, Flow, Outcome

#: A flow that ended more recently before the rows were read may have been read in two states.
_SETTLED = timedelta(minutes=1)
#: Hours on a page.
PAGE = 24


class _Known(NamedTuple):
    """What the journal has of one flow and one service."""

    entries: list[tuple[str, dict[str, Any]]]
    """Event types and their data."""
    handled: int


def reconcile(service: str, told: Told) -> None:
    """Compare one account of a service with the journal, mark the flows that differ, and keep the totals."""
    newer = Account.objects.filter(hour=told.hour, service=service, at__gt=told.at)
    if newer.exists() or not _kept_a_journal(told.hour):
        return
    told_of = {subject.subject: subject for subject in told.subjects}
    flows = _flows(told, told_of)
    settled = {key: flow for key, flow in flows.items() if _has_settled(flow, told.at) or not flow.events}
    known = _known(service, settled)
    totals: dict[str, list[int]] = defaultdict(lambda: [0, 0, 0, 0])
    states, different = {key: FlowState.read(flow.state) for key, flow in settled.items()}, 0
    for key, state in states.items():
        subject = told_of.get(key) or SubjectAccount(subject=key, announced=0, handled=0)
        _add_up(totals, told.covers, subject, known[key])
        differences = [*_differences(service, told.covers, subject, known[key])]
        state.differs = {other: what for other, what in state.differs.items() if other != service}
        if differences:
            state.differs[service], different = "; ".join(differences), different + 1
        settled[key].state = state.document()
    now, declared = clock.now(), declarations()
    marks.clear([(flow, states[key]) for key, flow in settled.items()], now, declared)
    update_rows([*settled.values()], ["state", "mark", "check_at"], ALIAS)
    of_hour = Account.objects.filter(hour=told.hour, service=service)
    of_hour.filter(Q(at__lt=told.at) | Q(first=told.first)).delete()
    of_hour.create(
        hour=told.hour,
        service=service,
        first=told.first,
        at=told.at,
        flows=len(settled),
        running=len(flows) - len(settled),
        different=different,
        totals=totals,
    )


def _kept_a_journal(hour: datetime) -> bool:
    """Of flows that began before the journal did, it has not heard everything."""
    first = Entry.objects.order_by("pk").first()
    return first is not None and first.recorded_at <= hour


def _flows(told: Told, told_of: Iterable[str]) -> dict[str, Flow]:
    """The flows of an account, locked. One that the journal has never heard of gets a row, to be marked."""
    keys = {*Flow.objects.filter(pk__gte=told.first, pk__lt=told.last).values_list("pk", flat=True)}
    missing = sorted({*told_of} - keys)
    rows = [Flow(id=key, number=number_of(key), started_at=told.hour, last_at=told.hour, state={}) for key in missing]
    insert_new(rows, by=["id"], using=ALIAS)
    return find(Flow.objects.all(), sorted({*keys, *missing}), lock=True)


def _has_settled(flow: Flow, at: datetime) -> bool:
    return flow.ended_at is not None and flow.last_at <= at - _SETTLED


def _known(service: str, keys: Iterable[str]) -> dict[str, _Known]:
    keys = [*keys]
    entries: dict[str, list[tuple[str, dict[str, Any]]]] = defaultdict(list)
    for entry in Entry.objects.filter(flow__in=keys, source=service):
        if entry.subject == entry.flow:
            entries[entry.flow].append((entry.type, json.loads(entry.body)))
    handled: dict[str, set[tuple[str, str]]] = defaultdict(set)
    done = Outcome.objects.filter(flow__in=keys, service=service, what="done")
    for flow, event_id, reaction in done.values_list("flow", "event_id", "reaction"):
        handled[flow].add((event_id, reaction))
    return {key: _Known(entries[key], len(handled[key])) for key in keys}


def _differences(
    service: str, covers: Mapping[str, Iterable[str]], told: SubjectAccount, known: _Known
) -> Iterator[str]:
    if told.announced != len(known.entries):
        yield f"{service} has announced {told.announced} events, the journal has heard {len(known.entries)}"
    if told.handled != known.handled:
        yield f"{service} has handled {told.handled} deliveries, the journal knows of {known.handled}"
    for record, event_types in covers.items():
        facts = {family_of(fact.event_type): fact.fields for fact in told.facts if fact.record == record}
        heard = dict(_of_families(event_types, known))
        for family in sorted({*facts, *heard}):
            if family not in heard:
                yield f"by {service}'s {record}, {family} should have been announced"
            elif family not in facts:
                yield f"{family} was announced, and {service}'s {record} does not have it"
            else:
                for name, value in sorted(facts[family].items()):
                    if (other := heard[family].get(name)) != value:
                        yield f"{family} was announced with {name} {other}, {service}'s {record} has {value}"


def _of_families(event_types: Iterable[str], known: _Known) -> list[tuple[str, dict[str, Any]]]:
    """The facts among these, in whatever version they were heard."""
    families = {*map(family_of, event_types)}
    return [(family, data) for event_type, data in known.entries if (family := family_of(event_type)) in families]


def _add_up(
    totals: dict[str, list[int]], covers: Mapping[str, Iterable[str]], told: SubjectAccount, known: _Known
) -> None:
    """Count and add up, by record, event and currency: first what the rows have, then what the journal has."""
    for record, event_types in covers.items():
        told_facts = [(family_of(it.event_type), it.fields) for it in told.facts if it.record == record]
        names = {family: fields.keys() for family, fields in told_facts}
        heard = [
            (family, {name: data[name] for name in names.get(family, ()) if name in data})
            for family, data in _of_families(event_types, known)
        ]
        for column, facts in ((0, told_facts), (2, heard)):
            for family, fields in facts:
                line = totals[f"{record} {family} {fields.get('currency', '')}".strip()]
                line[column] += 1
                line[column + 1] += sum(value for value in fields.values() if isinstance(value, int))


@dataclass(frozen=True)
class Line:
    """One record's count and sum of one event in an hour, beside the journal's."""

    service: str
    record: str
    event: str
    count: int
    sum: str
    """With its currency; empty if there is nothing to add up."""
    journal_count: int
    journal_sum: str

    @property
    def agrees(self) -> bool:
        return (self.count, self.sum) == (self.journal_count, self.journal_sum)


@dataclass(frozen=True)
class Hour:
    """What all services have said of one hour."""

    begins: datetime
    flows: int
    running: int
    different: int
    lines: Sequence[Line]


def hours(before: datetime | None = None, most: int = PAGE) -> list[Hour]:
    """The hours that were accounted for, the newest first.

    Args:
        before: only hours that began before.
        most: how many.
    """
    accounts = Account.objects.all() if before is None else Account.objects.filter(hour__lt=before)
    begins = [*accounts.order_by("-hour").values_list("hour", flat=True).distinct()[:most]]
    by_hour: dict[datetime, list[Account]] = {hour: [] for hour in begins}
    for account in Account.objects.filter(hour__in=begins).order_by("service", "first"):
        by_hour[account.hour].append(account)
    return [_hour(hour, parts) for hour, parts in by_hour.items()]


def _hour(begins: datetime, parts: Sequence[Account]) -> Hour:
    sums: dict[tuple[str, str], list[int]] = defaultdict(lambda: [0, 0, 0, 0])
    by_service: dict[str, list[int]] = defaultdict(lambda: [0, 0, 0])
    for part in parts:
        for name, columns in part.totals.items():
            line = sums[part.service, name]
            line[:] = [one + other for one, other in zip(line, columns, strict=True)]
        numbers = by_service[part.service]
        numbers[:] = [numbers[0] + part.flows, numbers[1] + part.running, numbers[2] + part.different]
    flows, running, different = map(max, zip(*by_service.values(), strict=True))
    lines = [_line(service, name, columns) for (service, name), columns in sorted(sums.items())]
    return Hour(begins, flows, running, different, lines)


def _line(service: str, name: str, columns: Sequence[int]) -> Line:
    record, event, currency = f"{name} ".split(" ")[:3]
    count, total, journal_count, journal_total = columns
    shown, journal_shown = (display(amount, currency) if currency else "" for amount in (total, journal_total))
    return Line(service, record, event, count, shown, journal_count, journal_shown)
