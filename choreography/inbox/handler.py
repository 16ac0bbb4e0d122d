"""One delivery's whole life, in one function: done, a duplicate, again later, or parked.

Knows neither Celery nor the broker. The worker (and ``testing``) hands a ``Delivery`` in and carries the outcome out.
Deliveries that wait together are handed in together and share one transaction (``deliver_together``). That only ever
goes well: what does not is left, and handed in again on its own.
"""

import logging
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, cast
from uuid import UUID

import structlog

from choreography.broker import topology
from choreography.broker.publisher import Outgoing
from choreography.core import clock
from choreography.core.classification import classify, is_database_down
from choreography.core.conf import conf
from choreography.core.errors import Conflict, Outage, Unusable, describe
from choreography.events.messages import Event, Headline, read_event
from choreography.events.registry import Reaction, reaction_to
from choreography.inbox.deliveries import (
    ATTEMPTS,
    DATABASE,
    FIRST_SEEN,
    GIVEN_UP,
    NOTES_OF_THE_BROKER,
    WAITS,
    Delivery,
    Done,
    Duplicate,
    Later,
    Left,
    Outcome,
    Parked,
)
from choreography.inbox.parking import note_retry, park
from choreography.inbox.retry_policy import Again, Park, decide
from choreography.inbox.unit_of_work import Item, take_effect

log = structlog.get_logger(__name__)

#: How often a reaction starts over at once when the state its outside call was based on has changed.
_CONFLICTS = 5


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
    items: dict[int, Item] = {}
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
        found = take_effect(reaction, [items[place] for place in places])
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
    return _alone(take_effect(reaction, [item]))


def _read(delivery: Delivery) -> tuple[Reaction, Item]:
    reaction = _reaction_to(delivery, delivery.headline)
    if delivery.given_up is not None:
        raise Unusable(f"the broker gave it up: {delivery.given_up}")
    return reaction, Item(delivery, read_event(delivery.body, reaction.reads))


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


def _react(reaction: Reaction, item: Item) -> Outcome:
    """Run the reaction, starting over at once while what it saw outside its transaction is out of date."""
    for remaining in reversed(range(_CONFLICTS)):
        try:
            outcome = _alone(take_effect(reaction, [item]))
        except Conflict:
            if remaining == 0:
                raise
        else:
            _tell_effect(outcome, item.event, reaction)
            return outcome
    raise AssertionError("unreachable: the loop returns or raises")


def _alone(outcomes: Sequence[Outcome | Left]) -> Outcome:
    return cast(Outcome, outcomes[0])  # what is on its own is never left


def _failed(
    delivery: Delivery, about: Event[Any] | Headline | None, reaction: Reaction | None, error: Exception
) -> Later | Parked:
    history = delivery.history
    verdict = decide(error, history, clock.now(), clock.jitter(), conf())
    if isinstance(verdict, Park):
        try:
            park(delivery, about, reaction, error, verdict.attempts)
        except Exception as down:  # the dead-letter table can't be written: then it has to wait for that
            log.error("parking failed", service=delivery.service, error=type(down).__name__)
            verdict = cast(Again, decide(Outage(), history, clock.now(), clock.jitter(), conf()))
            error = down
        else:
            _tell("delivery parked", about, reaction, error, logging.ERROR, attempts=verdict.attempts)
            return Parked(error)
    _tell("delivery retried", about, reaction, error, delay=round(verdict.delay, 1))
    again, what_is_down = _again(delivery, verdict), _what_is_down(error, reaction)
    if what_is_down != DATABASE:
        note_retry(delivery, again, verdict.tier)
    return Later(again, verdict.delay, error, what_is_down)


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


def _what_is_down(error: Exception, reaction: Reaction | None) -> str | None:
    if is_database_down(error):
        return DATABASE
    host = reaction.host if reaction else None
    return host.name if host and issubclass(classify(error), Outage) else None


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
