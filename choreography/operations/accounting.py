"""Announce what a service's own rows say of the flows of each hour (``events.accounts``)."""

from collections import defaultdict
from datetime import UTC, datetime, timedelta
from itertools import takewhile
from typing import Any
from uuid import UUID

from django.db.models import Count

from choreography.core import clock
from choreography.core.conf import conf
from choreography.events.accounts import AccountedFact, SubjectAccount, account_type, records
from choreography.events.messages import published
from choreography.outbox.announcing import announce, transaction_of
from choreography.storage.tables import ServiceTables

_HOUR = timedelta(hours=1)
#: Hours that are looked back for one that was missed.
_LOOK_BACK = 48
#: Subjects that go into one event, at most: some 40 kB.
_SUBJECTS = 200


def announce_accounts(service: str) -> None:
    """Announce the accounts that are due: of each hour once for each of ``ACCOUNT_AGES``.

    Hours that were missed, because no tick came for a while, are accounted for as well.
    """
    if service not in conf().reports:
        return
    for age in conf().account_ages:
        for hour in _due(service, age):
            _announce(service, hour, age)


def account(service: str, first: UUID, last: UUID) -> list[SubjectAccount]:
    """What a service's tables say about the subjects from ``first`` up to, not including, ``last``, in their order.

    Raises:
        Transient: an external system whose records were asked for failed.
    """
    tables = ServiceTables(service)
    of_facts = tables.outbox.filter(fact_id=None)
    announced, handled = (_count(rows, first, last) for rows in (of_facts, tables.inbox))
    facts: dict[str, list[AccountedFact]] = defaultdict(list)
    for record in records(service):
        for it in record.function(first, last):
            fact = AccountedFact(record=record.name, event_type=it.event.event_type, fields={**it.fields})
            facts[str(it.subject)].append(fact)
    return [
        SubjectAccount(
            subject=subject,
            announced=announced.get(subject, 0),
            handled=handled.get(subject, 0),
            facts=tuple(facts.get(subject, ())),
        )
        for subject in sorted({*announced, *handled, *facts})
    ]


def bounds_of(hour: datetime) -> tuple[UUID, UUID]:
    """The ids made in an hour: from the first up to, not including, the second. A UUIDv7 begins with its time."""
    return _least_id(hour), _least_id(hour + _HOUR)


def _due(service: str, age: timedelta) -> list[datetime]:
    """The hours since the last one that was accounted for; where there is none, the newest that is due."""
    newest = (clock.now() - age).replace(minute=0, second=0, microsecond=0) - _HOUR
    hours = {_subject(hour, age): hour for hour in (newest - n * _HOUR for n in range(_LOOK_BACK))}
    told = set(ServiceTables(service).outbox.filter(subject__in=hours).values_list("subject", flat=True))
    missed = [hours[subject] for subject in takewhile(lambda subject: subject not in told, hours)]
    return missed[::-1] if told else [newest]


def _subject(hour: datetime, age: timedelta) -> str:
    return f"{hour:%Y-%m-%dT%H} after {int(age.total_seconds())} s"


def _announce(service: str, hour: datetime, age: timedelta) -> None:
    subject = _subject(hour, age)
    first, last = bounds_of(hour)
    at, accounts = clock.now(), account(service, first, last)
    covers = {record.name: tuple(sorted(record.covers)) for record in records(service)}
    parts = [accounts[start : start + _SUBJECTS] for start in range(0, len(accounts), _SUBJECTS)] or [[]]
    starts = [str(first), *(part[0].subject for part in parts[1:]), str(last)]
    with transaction_of(service):
        for start, end, part in zip(starts, starts[1:], parts, strict=False):
            data = {"hour": hour, "first": start, "last": end, "at": at, "covers": covers, "subjects": tuple(part)}
            announce(published[account_type(service)](**data), subject=subject)


def _count(rows: Any, first: UUID, last: UUID) -> dict[str, int]:
    of_hour = rows.filter(subject__gte=str(first), subject__lt=str(last)).order_by()
    return dict(of_hour.values_list("subject").annotate(Count("pk")))


def _least_id(moment: datetime) -> UUID:
    milliseconds = int(moment.astimezone(UTC).timestamp() * 1000)
    return UUID(int=milliseconds << 80)
