"""The one transaction in which deliveries to a reaction take effect, and the external calls before it."""

import time
from collections import deque
from collections.abc import Callable, Collection, Container, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Executor, Future, ThreadPoolExecutor, wait
from contextlib import nullcontext
from contextvars import Context, copy_context
from typing import Any
from uuid import UUID

import structlog
from django.db import connections

from choreography.core import clock
from choreography.core.classification import classify, is_database_down
from choreography.core.conf import conf
from choreography.core.errors import ClaimEnded, Conflict, NotYet, Outage, describe
from choreography.events.messages import Event
from choreography.events.registry import Reaction
from choreography.inbox.deliveries import Delivery, Done, Duplicate, Failed, Outcome, Unhandled
from choreography.inbox.parking import resolve
from choreography.inbox.reporting import outcome_of, report
from choreography.outbox.announcing import caused_by, transaction_of
from choreography.storage.bulk import insert_new
from choreography.storage.claims import Claims, claimed
from choreography.storage.tables import ServiceTables

log = structlog.get_logger(__name__)

#: Seconds after which results of a batch are committed while some of its calls are still running.
_SHARE_EVERY = 0.1


def take_effect(
    reaction: Reaction, deliveries: Sequence[Delivery], calls_at_once: int = 1
) -> list[Outcome | Unhandled | Failed]:
    """Call the external system first, if the reaction does, and keep the claims until the result is committed.

    Of a batch, each result is committed soon after its call was answered: no delivery waits for a slow call of another.
    A delivery whose call fails has ``Failed``; nothing was changed for it. Of a single delivery whatever goes wrong is
    raised.

    Args:
        deliveries: to ``reaction``, whose events could be read, no two of one subject.
        calls_at_once: how many threads call the external system. With 1 it is called by the caller's own.

    Raises:
        NotYet: another copy of the single delivery is being handled.
    """
    if reaction.ask is None:
        return [*_commit(reaction, deliveries)]
    tables = ServiceTables(reaction.service)
    outcomes: dict[UUID, Outcome | Unhandled | Failed] = {each.event.id: Unhandled(alone=True) for each in deliveries}
    with claimed(reaction.service, reaction.name, outcomes) as claims:
        if not claims.event_ids and len(deliveries) == 1:
            raise NotYet(f"another copy of {reaction.name}:{deliveries[0].event.id} is being handled")
        by_id = {each.event.id: each for each in deliveries if each.event.id in claims.event_ids}
        handled = _handled(reaction, tables, by_id)
        if handled:
            outcomes |= _commit_some(reaction, _those(handled, by_id), {}, claims)
        to_ask = [each.event for each in by_id.values() if each.event.id not in handled]
        for answers, unhandled in _ask(reaction, to_ask, calls_at_once, is_single=len(deliveries) == 1):
            outcomes |= unhandled
            if answers:
                outcomes |= _commit_some(reaction, _those(answers, by_id), answers, claims)
    return [*outcomes.values()]


def took_effect(delivery: Delivery, reaction: Reaction, event_id: UUID) -> bool:
    """Whether what is to be given up had taken effect before. Then it is a duplicate, and settled as one.

    A message that holds several events is given up as a whole.
    """
    tables = ServiceTables(delivery.service)
    if not _handled(reaction, tables, [event_id]):
        return False
    with transaction_of(delivery.service):
        resolve([delivery])
        report(tables.service, [outcome_of(delivery, "duplicate", dead_letter=delivery.dead_letter)])
    return True


def _those(event_ids: Container[UUID], by_id: Mapping[UUID, Delivery]) -> list[Delivery]:
    """In the order in which all were given, whatever answer came first: rows are locked in that order."""
    return [delivery for event_id, delivery in by_id.items() if event_id in event_ids]


def _handled(reaction: Reaction, tables: ServiceTables, event_ids: Collection[UUID]) -> set[UUID]:
    """The events that have taken effect before."""
    if not event_ids:
        return set()
    meta, connection = tables.inbox.model._meta, connections[tables.alias]
    field: Any = meta.get_field("event_id")
    prepared = {field.get_db_prep_value(event_id, connection): event_id for event_id in event_ids}
    values = ", ".join(["%s"] * len(prepared))
    with connection.cursor() as cursor:
        cursor.execute(
            f'SELECT event_id FROM "{meta.db_table}" WHERE event_id IN ({values}) AND reaction = %s',  # noqa: S608
            [*prepared, reaction.name],
        )
        return {prepared[found] for (found,) in cursor.fetchall()}


def _ask(
    reaction: Reaction, events: Sequence[Event[Any]], calls_at_once: int, *, is_single: bool
) -> Iterator[tuple[dict[UUID, Any], dict[UUID, Unhandled | Failed]]]:
    """Call the external system for each event, until time is up or the system is down.

    Yields:
        Answers by event id, a few times a second while there are new ones, and the events that have none.

    Raises:
        Exception: whatever went wrong, if this is about a single delivery.
    """
    if not events or reaction.ask is None:
        return
    waiting = deque(zip(events, _arguments_to_ask(reaction, events), strict=True))
    answers: dict[UUID, Any] = {}
    unhandled: dict[UUID, Unhandled | Failed] = {}
    until, next_share = clock.now() + conf().call_budget, time.monotonic() + _SHARE_EVERY
    is_down = False
    running: dict[Future[Any], Event[Any]] = {}
    with _executor(min(calls_at_once, len(events))) as executor:
        while running or waiting:
            while waiting and len(running) < calls_at_once:
                event, arguments = waiting.popleft()
                running[executor.submit(_call, copy_context(), reaction.ask, arguments)] = event
            for call in wait(running, _SHARE_EVERY, return_when=FIRST_COMPLETED).done:
                event = running.pop(call)
                try:
                    answers[event.id] = call.result()
                except Exception as error:
                    if is_single:
                        raise
                    is_outage = issubclass(classify(error), Outage)
                    is_down = is_down or is_outage
                    # An outage is judged when it happens to the event on its own, and pauses the worker then.
                    again = is_outage or isinstance(error, Conflict)
                    unhandled[event.id] = Unhandled(alone=True) if again else Failed(error)
            if is_down or clock.now() >= until:
                unhandled |= {event.id: Unhandled(alone=False) for event, _ in waiting}
                waiting.clear()
            if answers and running and time.monotonic() >= next_share:
                yield answers, {}
                answers, next_share = {}, time.monotonic() + _SHARE_EVERY
    yield answers, unhandled


def _call(context: Context, ask: Callable[..., Any], arguments: Sequence[Any]) -> Any:
    return context.run(ask, *arguments)


def _executor(threads: int) -> Executor:
    """Threads, or the caller's own."""
    return ThreadPoolExecutor(threads, "call") if threads > 1 else _InlineExecutor()


class _InlineExecutor(Executor):
    """Runs what is submitted at once."""

    def submit(self, function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        future: Future[Any] = Future()
        try:
            future.set_result(function(*args, **kwargs))
        except BaseException as error:
            future.set_exception(error)
        return future


def _arguments_to_ask(reaction: Reaction, events: Sequence[Event[Any]]) -> Iterable[tuple[Any, ...]]:
    """What ``ask`` takes for each event, its row prepared and committed if the reaction says so."""
    if reaction.rows is None:
        return [(event,) for event in events]
    subjects = [event.subject for event in events]
    if reaction.prepare is None:
        return zip(reaction.rows.current(subjects), events, strict=True)
    with transaction_of(reaction.service), reaction.rows.locked(subjects) as rows:
        for row, event in zip(rows, events, strict=True):
            reaction.prepare(row, event)
    return zip(rows, events, strict=True)


def _commit_some(
    reaction: Reaction, deliveries: Sequence[Delivery], answers: Mapping[UUID, Any], claims: Claims
) -> dict[UUID, Outcome | Unhandled]:
    """Commit those of a batch that have an answer, or took effect before. If that fails, they are ``Unhandled``.

    Raises:
        Exception: whatever went wrong with a single delivery, or with the database.
    """
    ids = [each.event.id for each in deliveries]
    try:
        outcomes = _commit(reaction, deliveries, answers, claims)
    except Exception as error:
        if isinstance(error, ClaimEnded):
            _ask_again(reaction, [each.event for each in deliveries if each.event.id in answers])
        if len(claims.event_ids) == 1 or is_database_down(error):
            raise
        failed_together(reaction, len(ids), error)
        return dict.fromkeys(ids, Unhandled(alone=True))
    if deliveries:
        deliveries[0].when_committed(deliveries)
    return dict(zip(ids, outcomes, strict=True))


def _ask_again(reaction: Reaction, events: Sequence[Event[Any]]) -> None:
    """Bring the external system back to what was committed for copies, handled between our reading and our call.

    Their call was made before ours, which has undone it or should never have been made: the same question, asked of the
    row as it is now, puts that right. What it answers is recorded already.
    """
    with claimed(reaction.service, reaction.name, [event.id for event in events]) as claims:
        handled = _handled(reaction, ServiceTables(reaction.service), claims.event_ids)
        overtaken = [event for event in events if event.id in handled]
        log.warning("claims ended during calls", reaction=reaction.name, calls=len(events), overtaken=len(overtaken))
        for arguments in _arguments_to_ask(reaction, overtaken):
            if reaction.ask is not None:
                reaction.ask(*arguments)


def failed_together(reaction: Reaction, deliveries: int, error: Exception) -> None:
    """Deliveries have failed in one transaction: each is handled again on its own, where its error is judged."""
    log.info("handled one by one", reaction=reaction.name, events=deliveries, error=describe(error))


def _commit(
    reaction: Reaction,
    deliveries: Sequence[Delivery],
    answers: Mapping[UUID, Any] | None = None,
    claims: Claims | None = None,
) -> list[Done | Duplicate]:
    """The one transaction: the inbox rows, the reaction's changes, what it announces, and the end of the claims."""
    tables = ServiceTables(reaction.service)
    inbox = tables.inbox.model
    rows = [
        inbox(
            event_id=each.event.id,
            reaction=reaction.name,
            event_type=each.event.type,
            subject=each.event.subject,
            attempts=each.attempts + 1,
        )
        for each in deliveries
    ]
    with transaction_of(reaction.service):
        new = {row.event_id for row in insert_new(rows, by=("event_id", "reaction"), using=tables.alias)}
        _react(reaction, [each.event for each in deliveries if each.event.id in new], answers)
        resolve(deliveries)
        if claims is not None:
            claims.settle([each.event.id for each in deliveries])
        report(
            tables.service,
            (
                outcome_of(each, "done" if each.event.id in new else "duplicate", dead_letter=each.dead_letter)
                for each in deliveries
            ),
        )
    return [Done() if each.event.id in new else Duplicate() for each in deliveries]


def _react(reaction: Reaction, events: Sequence[Event[Any]], answers: Mapping[UUID, Any] | None) -> None:
    """Call the reaction's function for each event, with all their rows locked at once."""
    if not events:
        return
    locked = reaction.rows.locked([event.subject for event in events]) if reaction.rows else nullcontext(events)
    with locked as rows:
        for row, event in zip(rows, events, strict=True):
            before = () if reaction.rows is None else (row,)
            after = () if answers is None else (answers[event.id],)
            with caused_by(reaction, event):
                reaction.function(*before, event, *after)
