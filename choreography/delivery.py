"""One delivery's whole life, in one function: done, a duplicate, again later, or parked.

Knows neither Celery nor the broker. The worker (and ``testing``) hands a ``Delivery`` in and carries the outcome out.
Deliveries that wait together are handed in together and share one transaction (``deliver_together``). That only ever
goes well: what does not is left, and handed in again on its own.
"""

import base64
import hashlib
import logging
import math
import traceback
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from functools import cached_property
from typing import Any, cast
from uuid import UUID

import structlog
from django.db import DatabaseError, connections, transaction

from choreography import topology, world
from choreography.claims import claimed
from choreography.conf import conf
from choreography.contracts import Event, Headline, read_event, read_headline
from choreography.errors import ChoreographyError, Conflict, NotYet, Outage, Unusable
from choreography.fingerprints import fingerprint, place_of
from choreography.models import alias_of, table_of
from choreography.outbox import caused_by, transaction_of
from choreography.publishing import Outgoing
from choreography.registry import Reaction, reaction_to
from choreography.retries import Again, History, Park, classify, decide, is_database_down
from choreography.rows import insert_new

log = structlog.get_logger(__name__)

#: Headers in which a delivery's history and its dead letter travel. Foreign publishers need none of them.
ATTEMPTS, WAITS, FIRST_SEEN, LETTER, GIVEN_UP = (
    "x-choreography-attempts",
    "x-choreography-waits",
    "x-choreography-first-seen",
    "x-choreography-letter",
    "x-choreography-given-up",
)

#: What is down when a service can't reach its own database; otherwise it is called by its host's name.
DATABASE = "database"

#: What headers may claim, whoever wrote them: more attempts or waits are no history, and more letters no key.
_MOST = 10**6
_LONGEST_KEY = 150

#: Headers in which the broker notes a message's way; they are not sent again.
NOTES_OF_THE_BROKER = ("x-death", "x-first-death", "x-last-death", "x-delivery-count")

#: Deliveries without an answer after which a message may be what ends its workers.
_SUSPICIOUS = 3

#: How often a reaction starts over at once when the state its outside call was based on has changed.
_CONFLICTS = 5


@dataclass(frozen=True)
class Delivery:
    """A message as it came from the broker, for one service."""

    service: str
    body: bytes
    content_type: str | None = None
    headers: Mapping[str, Any] = field(default_factory=dict)
    given_up: str | None = None
    """Why the broker gave it up (``delivery_limit``, ``rejected``), if it comes from the dead queue."""

    @property
    def history(self) -> History:
        """What the headers say happened before; a fresh history where they say nothing sensible."""
        try:
            first_seen = datetime.fromisoformat(self.headers[FIRST_SEEN])
            attempts, waits = int(self.headers[ATTEMPTS]), int(self.headers[WAITS])
        except (KeyError, TypeError, ValueError, OverflowError):
            return History(world.now())
        sensible = first_seen.tzinfo is not None and 0 <= attempts <= _MOST and 0 <= waits <= _MOST
        return History(first_seen, attempts, waits) if sensible else History(world.now())

    @cached_property
    def headline(self) -> Headline:
        """What event it holds.

        Raises:
            Unusable: it can't be told.
        """
        return read_headline(self.body, self.content_type, conf().max_body_bytes)

    @property
    def is_suspect(self) -> bool:
        """It has failed before, here or with a worker that died: others should not share a transaction with it."""
        if self.given_up is not None or GIVEN_UP in self.headers or LETTER in self.headers:
            return True
        if ATTEMPTS in self.headers and self.history.attempts > 0:
            return True
        unanswered = self.headers.get("x-delivery-count")
        return isinstance(unanswered, int) and unanswered >= _SUSPICIOUS

    @property
    def letter(self) -> str | None:
        """The key of the dead letter that a person sent again, if this is one."""
        key = self.headers.get(LETTER)
        return key if isinstance(key, str) and key.isprintable() and 0 < len(key) <= _LONGEST_KEY else None


@dataclass(frozen=True)
class Done:
    """The reaction's changes, its inbox row and its outbox rows are committed."""


@dataclass(frozen=True)
class Duplicate:
    """It had taken effect before; nothing was changed."""


@dataclass(frozen=True)
class Later:
    """Nothing was changed. ``again`` belongs on the retry ladder; it comes back after ``delay`` seconds."""

    again: Outgoing
    delay: float
    error: Exception
    down: str | None = None
    """What seems to be down, if that is why: ``DATABASE`` or the name of the host the reaction asks."""


@dataclass(frozen=True)
class Parked:
    """It is in the dead-letter table, for a person."""

    error: Exception


Outcome = Done | Duplicate | Later | Parked


@dataclass(frozen=True)
class Left:
    """Nothing was changed and nothing is decided: it is to be handed in again."""

    alone: bool
    """On its own: with others it did not go well. Otherwise there was just no time to ask for it."""


@dataclass(frozen=True)
class _Item:
    """A delivery whose event could be read."""

    delivery: Delivery
    event: Event[Any]
    attempts: int


def deliver_together(deliveries: Sequence[Delivery]) -> list[Outcome | Left]:
    """Handle deliveries to one reaction in one transaction, no two of them of one subject.

    If anything goes wrong for all of them, nothing is changed and each is left, to be handled on its own. Only when
    the database is down, which is no fault of any of them, are all put on the ladder.

    Returns:
        An outcome for each, in the same order.
    """
    if len(deliveries) == 1:
        return [deliver(deliveries[0])]
    outcomes: list[Outcome | Left] = [Left(alone=True)] * len(deliveries)
    items: dict[int, _Item] = {}
    met: set[UUID] = set()
    for place, delivery in enumerate(deliveries):
        try:
            reaction, item = _read(delivery)
        except Exception as error:  # it will be met and judged when the delivery is on its own
            log.debug("unusable in company", service=delivery.service, error=describe(error))
            continue
        if met.isdisjoint((item.event.id, item.event.subject)):
            met.update((item.event.id, item.event.subject))
            items[place] = item
    if not items:
        return outcomes
    # Sorted, so that two groups lock the rows they share in the same order.
    places = sorted(items, key=lambda place: items[place].event.subject)
    try:
        found = _take_effect(reaction, [items[place] for place in places])
    except Exception as error:  # likewise
        if is_database_down(error):
            found = [_failed(items[place].delivery, items[place].event, reaction, error) for place in places]
        else:
            log.info("handled one by one", reaction=reaction.name, events=len(items), error=describe(error))
            return outcomes
    for place, outcome in zip(places, found, strict=True):
        outcomes[place] = outcome
        if isinstance(outcome, Done | Duplicate):
            _tell_effect(outcome, items[place].event, reaction)
    return outcomes


def deliver(delivery: Delivery) -> Outcome:
    """Handle one delivery. Whatever comes back is committed: the message may be acknowledged.

    (For ``Later``, once the ladder has confirmed it.) Never raises for anything the message, the reaction, the
    database or the outside world did.
    """
    about: Headline | None = None
    reaction: Reaction | None = None
    delivery = _with_its_mark(delivery)
    try:
        about = delivery.headline
        reaction = _reaction_to(delivery, about)
        return _react(*_read(delivery))
    except Exception as error:  # every branch of a failure is there: a fault of the code is one of them
        return _failed(delivery, about, reaction, error)


def _failed(
    delivery: Delivery, about: Event[Any] | Headline | None, reaction: Reaction | None, error: Exception
) -> Later | Parked:
    history = delivery.history
    verdict = decide(error, history, world.now(), world.jitter(), conf())
    if isinstance(verdict, Park):
        try:
            _park(delivery, about, reaction, error, verdict.attempts)
        except Exception as down:  # the dead-letter table can't be written: then it has to wait for that
            log.error("parking failed", service=delivery.service, error=type(down).__name__)
            verdict = cast(Again, decide(Outage(), history, world.now(), world.jitter(), conf()))
            error = down
        else:
            _tell("delivery parked", about, reaction, error, logging.ERROR, attempts=verdict.attempts)
            return Parked(error)
    _tell("delivery retried", about, reaction, error, delay=round(verdict.delay, 1))
    again, what_is_down = _again(delivery, verdict), _what_is_down(error, reaction)
    _note_retry(delivery, again, verdict, what_is_down)
    return Later(again, verdict.delay, error, what_is_down)


def resume(delivery: Delivery) -> bool:
    """Try now what waits on the ladder for another event. The copy on the ladder stays responsible for it.

    Returns:
        Whether it has taken effect. If not, nothing was changed, whatever went wrong.
    """
    try:
        _react(*_read(delivery))
    except Exception as error:  # whatever it is, it will be met and judged again when the ladder brings the copy
        log.info("not resumed", service=delivery.service, error=describe(error))
        return False
    return True


def try_out(delivery: Delivery) -> Outcome:
    """Have a delivery take effect, without any judgement of what goes wrong, for whoever rolls it back.

    Raises:
        Exception: whatever the message or the reaction raises.
    """
    reaction, item = _read(delivery)
    return _alone(_take_effect(reaction, [item]))


def _read(delivery: Delivery) -> tuple[Reaction, _Item]:
    reaction = _reaction_to(delivery, delivery.headline)
    if delivery.given_up is not None:
        raise Unusable(f"the broker gave it up: {delivery.given_up}")
    return reaction, _Item(delivery, read_event(delivery.body, reaction.reads), delivery.history.attempts + 1)


def _reaction_to(delivery: Delivery, headline: Headline) -> Reaction:
    reaction = reaction_to(delivery.service, headline.type)
    if reaction is None:
        raise Unusable(f"{delivery.service} has no reaction to {headline.type}")
    return reaction


def _with_its_mark(delivery: Delivery) -> Delivery:
    """What the broker gave up stays given up when it comes back from the ladder, where it waited to be parked."""
    headers = dict(delivery.headers)
    mark = headers.pop(GIVEN_UP, None)
    return delivery if mark is None else replace(delivery, headers=headers, given_up=delivery.given_up or str(mark))


def _what_is_down(error: Exception, reaction: Reaction | None) -> str | None:
    if is_database_down(error):
        return DATABASE
    host = reaction.host if reaction else None
    return host.name if host and issubclass(classify(error), Outage) else None


def _react(reaction: Reaction, item: _Item) -> Outcome:
    """Run the reaction, starting over at once while what it saw outside its transaction is out of date."""
    for remaining in reversed(range(_CONFLICTS)):
        try:
            outcome = _alone(_take_effect(reaction, [item]))
        except Conflict:
            if remaining == 0:
                raise
        else:
            _tell_effect(outcome, item.event, reaction)
            return outcome
    raise AssertionError("unreachable: the loop returns or raises")


def _alone(outcomes: Sequence[Outcome | Left]) -> Outcome:
    return cast(Outcome, outcomes[0])  # what is on its own is never left


def _take_effect(reaction: Reaction, items: Sequence[_Item]) -> list[Outcome | Left]:
    """Ask the outside world first, if the reaction does, and hold the claims until what came of it is committed.

    What is the only one is never left: then it raises whatever went wrong.

    Raises:
        NotYet: another copy of the only one is being handled.
    """
    if reaction.calls is None:
        return [*_commit(reaction, items)]
    outcomes: dict[UUID, Outcome | Left] = {item.event.id: Left(alone=True) for item in items}
    alias = alias_of(reaction.service)
    with claimed(alias, reaction.name, outcomes) as claims:
        if not claims and len(items) == 1:
            raise NotYet(f"another copy of {reaction.name}:{items[0].event.id} is being handled")
        handled = _handled(reaction, alias, claims)
        answers: dict[UUID, Any] = {}
        outcomes |= _ask(reaction, [it.event for it in items if it.event.id in claims - handled], answers)
        ready = [item for item in items if item.event.id in handled or item.event.id in answers]
        if ready:
            outcomes |= zip((item.event.id for item in ready), _commit(reaction, ready, answers), strict=True)
    return [*outcomes.values()]


def _handled(reaction: Reaction, alias: str, event_ids: Collection[UUID]) -> set[UUID]:
    """Those that have taken effect before."""
    if not event_ids:
        return set()
    table = table_of(reaction.service, "Inbox")._meta
    connection, field = connections[alias], table.get_field("event_id")
    prepared = {field.get_db_prep_value(event_id, connection): event_id for event_id in event_ids}
    places = ", ".join(["%s"] * len(prepared))
    with connection.cursor() as cursor:
        cursor.execute(
            f'SELECT event_id FROM "{table.db_table}" WHERE event_id IN ({places}) AND reaction = %s',  # noqa: S608
            [*prepared, reaction.name],
        )
        return {prepared[found] for (found,) in cursor.fetchall()}


def _ask(reaction: Reaction, events: Sequence[Event[Any]], answers: dict[UUID, Any]) -> dict[UUID, Left]:
    """Ask for one event after the other, until time is up or there is nobody to ask.

    Args:
        answers: gets an answer by event id for each that was asked for.

    Returns:
        What was not asked for, or could not be answered.

    Raises:
        Exception: whatever went wrong, if it is the only event.
    """
    if not events or reaction.calls is None:
        return {}
    ask = reaction.calls(events) if reaction.grouped else reaction.calls
    left: dict[UUID, Left] = {event.id: Left(alone=False) for event in events}
    until = world.now() + conf().asking
    for event in events:
        try:
            answers[event.id] = ask(event)
        except Exception as error:  # judged when it happens to the event on its own
            if len(events) == 1:
                raise
            left[event.id] = Left(alone=True)
            if issubclass(classify(error), Outage):
                break
        else:
            del left[event.id]
        if world.now() >= until:
            break
    return left


def _commit(
    reaction: Reaction, items: Sequence[_Item], answers: Mapping[UUID, Any] | None = None
) -> list[Done | Duplicate]:
    """The one transaction: the inbox rows, the reaction's changes, and what it announces."""
    alias = alias_of(reaction.service)
    inbox = table_of(reaction.service, "Inbox")
    rows = [
        inbox(
            event_id=item.event.id,
            reaction=reaction.name,
            event_type=item.event.type,
            subject=item.event.subject,
            attempts=item.attempts,
        )
        for item in items
    ]
    with transaction_of(reaction.service):
        entered = {row.event_id for row in insert_new(rows, by=("event_id", "reaction"), using=alias)}
        events = [item.event for item in items if item.event.id in entered]
        if reaction.grouped and events:
            with caused_by(reaction, *events):
                reaction.function(events, *([] if answers is None else [[answers[event.id] for event in events]]))
        else:
            for event in events:
                with caused_by(reaction, event):
                    reaction.function(event, *([] if answers is None else [answers[event.id]]))
        _resolve([item.delivery for item in items], reaction.service, alias)
    return [Done() if item.event.id in entered else Duplicate() for item in items]


def _note_retry(delivery: Delivery, again: Outgoing, verdict: Again, down: str | None) -> None:
    """Note what goes to the ladder, so that it is sent again if it does not come back (see ``overdue``).

    Where that can't be written the ladder alone is trusted: what a service can't note it must still be able to retry.
    """
    if down == DATABASE:
        return
    retry = table_of(delivery.service, "Retry")
    row = retry(
        key=letter_key(delivery),
        body=again.body,
        content_type=_legible(again.content_type or "")[:200],
        headers=_plain(again.headers),
        overdue_at=world.now() + timedelta(seconds=verdict.tier) + conf().retry_overdue,
    )
    try:
        retry.objects.using(alias_of(delivery.service)).bulk_create(
            [row], update_conflicts=True, unique_fields=["key"], update_fields=["headers", "overdue_at", "copies"]
        )
    except DatabaseError as error:
        log.warning("retry not noted", service=delivery.service, error=type(error).__name__)


def _are_back(deliveries: Iterable[Delivery], service: str, alias: str) -> None:
    """Those that were on the ladder are dealt with: nobody has to look for them."""
    keys = [letter_key(delivery) for delivery in deliveries if FIRST_SEEN in delivery.headers]
    if keys:
        table_of(service, "Retry").objects.using(alias).filter(key__in=keys).delete()


def _resolve(deliveries: Sequence[Delivery], service: str, alias: str) -> None:
    """They have taken effect: if a person had sent one again from the dead letters, the letter has done its work."""
    _are_back(deliveries, service, alias)
    for delivery in deliveries:
        if delivery.letter is not None:
            resolve_letters(service, key=delivery.letter)


def resolve_letters(service: str, **which: Any) -> None:
    """Note on letters, and in their history, that they took effect. ``which`` selects them: ``key=...``."""
    alias = alias_of(service)
    letters = table_of(service, "DeadLetter")
    actions = table_of(service, "DeadLetterAction")
    now = world.now()
    with transaction.atomic(using=alias):
        chosen = letters.objects.using(alias).filter(**which)
        waiting = actions.objects.using(alias).filter(letter__in=chosen, outcome=actions.Outcome.PENDING)
        waiting.update(outcome=actions.Outcome.RESOLVED, ended_at=now)
        chosen.update(state=letters.State.RESOLVED, resolved_at=now)


def _park(
    delivery: Delivery,
    about: Event[Any] | Headline | None,
    reaction: Reaction | None,
    error: Exception,
    attempts: int,
) -> None:
    """Write the dead letter, or write on the one this message already has, and on what people did to it."""
    letters = table_of(delivery.service, "DeadLetter")
    actions = table_of(delivery.service, "DeadLetterAction")
    alias, key = alias_of(delivery.service), delivery.letter or letter_key(delivery)
    name, kind, place = reaction.name if reaction else "", type(error).__name__, place_of(error)
    fault = {
        "state": letters.State.PARKED,
        "fingerprint": fingerprint(name, kind, place),
        "reaction": name,
        "error": kind,
        "place": place,
        "message": _legible(str(error)),
        "traceback": _legible("".join(traceback.format_exception(error))),
        "attempts": attempts,
        "parked_at": world.now(),
        "resolved_at": None,
    }
    origin = {
        "event_id": about and about.id,
        "event_type": _legible(about.type)[:200] if about else "",
        "subject": about and about.subject,
        "body": delivery.body,
        "content_type": _legible(delivery.content_type or "")[:200],
        "headers": _plain(delivery.headers),
        "first_parked_at": fault["parked_at"],
    }
    with transaction.atomic(using=alias):
        _are_back([delivery], delivery.service, alias)
        letters.objects.using(alias).update_or_create(key=key, defaults=fault, create_defaults=fault | origin)
        actions.objects.using(alias).filter(letter__key=key, outcome=actions.Outcome.PENDING).update(
            outcome=actions.Outcome.PARKED, detail=f"{kind} {place}".rstrip(), ended_at=world.now()
        )


def letter_key(delivery: Delivery) -> str:
    """One letter per message and service: the same bytes again are the same message, whatever id they claim."""
    return hashlib.sha256(delivery.body + b"\0" + (delivery.content_type or "").encode(errors="replace")).hexdigest()


def reason_of_death(headers: Mapping[str, Any]) -> str:
    """The broker's note why it dead-lettered a message: ``rejected``, ``delivery_limit``, ``expired``, ``maxlen``."""
    match headers.get("x-death"):
        case [{"reason": str(reason)}, *_]:
            return reason
        case _:
            return "unknown"


def _again(delivery: Delivery, verdict: Again) -> Outgoing:
    """The same message for the ladder, with the history so far and without what the broker noted of its way."""
    own = {key: value for key, value in delivery.headers.items() if not key.startswith(NOTES_OF_THE_BROKER)}
    history = {
        ATTEMPTS: verdict.history.attempts,
        WAITS: verdict.history.waits,
        FIRST_SEEN: verdict.history.first_seen.isoformat(),
    } | ({GIVEN_UP: delivery.given_up} if delivery.given_up else {})
    return Outgoing(
        body=delivery.body,
        exchange="",
        routing_key=topology.retry_queue_name(delivery.service, verdict.tier),
        content_type=delivery.content_type,
        headers=own | history,
        expiration=verdict.delay,
    )


def _plain(headers: Mapping[str, Any]) -> dict[str, Any]:
    """Headers as JSON can hold them: bytes as base64, anything else unknown as its text."""

    def plain(value: Any) -> Any:
        if isinstance(value, bytes):
            return base64.b64encode(value).decode()
        if isinstance(value, Mapping):
            return {_legible(str(key)): plain(item) for key, item in value.items()}
        if isinstance(value, list | tuple):
            return [plain(item) for item in value]
        if isinstance(value, int | None) or (isinstance(value, float) and math.isfinite(value)):
            return value
        return _legible(str(value))

    return {_legible(str(key)): plain(value) for key, value in headers.items()}


def _legible(text: str) -> str:
    """Text as every database can hold it: PostgreSQL has no NUL, and UTF-8 no half of a pair of surrogates."""
    return text.encode(errors="replace").decode().replace("\0", "\N{REPLACEMENT CHARACTER}")


def describe(error: Exception) -> str:
    """What may be logged and shown of an error: the text only of our own, for others' may hold personal data."""
    name = type(error).__name__
    return f"{name}: {error}" if isinstance(error, ChoreographyError) else name


def _tell_effect(outcome: Outcome, event: Event[Any], reaction: Reaction) -> None:
    _tell("reaction done" if isinstance(outcome, Done) else "duplicate ignored", event, reaction)


def _tell(
    what: str,
    event: Event[Any] | Headline | None,
    reaction: Reaction | None,
    error: Exception | None = None,
    level: int = logging.INFO,
    **more: Any,
) -> None:
    """One log line per outcome. No payload: it may hold personal data."""
    fields = {
        "event_id": str(event.id) if event else None,
        "event_type": event.type if event else None,
        "flow": str(event.subject) if event else None,
        "reaction": reaction.name if reaction else None,
        "error": describe(error) if error else None,
    }
    log.log(level, what, **{name: value for name, value in (fields | more).items() if value is not None})
