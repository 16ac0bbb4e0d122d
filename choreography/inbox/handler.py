"""One delivery's whole life, in one function: done, a duplicate, retried later, or parked.

Knows neither Celery nor the broker. The worker (and ``testing``) hands a ``Delivery`` in and carries the outcome out.
Deliveries that wait together are handed in together and share one transaction (``handle``). A batch only ever
succeeds: a delivery that fails in it is ``Unhandled``, and handed in again on its own.
"""

import logging
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple, cast

import structlog

from choreography.broker import topology
from choreography.broker.publisher import Outgoing
from choreography.core import clock, metrics
from choreography.core.classification import classify, is_database_down
from choreography.core.conf import conf
from choreography.core.errors import Conflict, Outage, Unusable, describe
from choreography.events.messages import Envelope, Event
from choreography.events.registry import Reaction
from choreography.inbox.deliveries import (
    ATTEMPTS,
    BROKER_HEADERS,
    CAME_BACK,
    DATABASE,
    FIRST_SEEN,
    GIVEN_UP,
    SUSPICIOUS,
    WAITS,
    Delivery,
    Done,
    Duplicate,
    Failed,
    Outcome,
    Parked,
    RetryLater,
    Unhandled,
)
from choreography.inbox.parking import Fault, Postponed, forget_retry, park, record_retries
from choreography.inbox.retry_policy import Park, TryAgain, decide
from choreography.inbox.unit_of_work import failed_together, take_effect, took_effect

log = structlog.get_logger(__name__)

#: How often a reaction is run again at once when the state its external call was based on has changed.
_CONFLICTS = 5
#: What metrics call the outcomes.
_OUTCOMES: dict[type[Outcome], str] = {
    Done: "done",
    Duplicate: "duplicate",
    RetryLater: "retried",
    Parked: "parked",
}


def handle(deliveries: Sequence[Delivery], calls_at_once: int = 1) -> list[Outcome | Unhandled]:
    """Handle deliveries to one reaction in one transaction, or in a few, while calls to external systems are answered.

    If a transaction fails, nothing is changed and each of its deliveries is ``Unhandled``, to be handled on its own.
    Only when the database is down, which is no fault of any of them, are all put on the ladder. What can't be read is
    parked, and what waits for another event is retried, many with a few statements: a flood of them delays nothing.

    Args:
        calls_at_once: how many threads call external systems. With 1 the caller's own does.

    Returns:
        An outcome for each, in the same order.
    """
    if len(deliveries) == 1:
        single = handle_one(deliveries[0])
        _measure(deliveries[0], single)
        return [single]
    _begin(deliveries)
    outcomes: list[Outcome | Unhandled] = [Unhandled(alone=True)] * len(deliveries)
    failures: dict[int, _Failure] = {}
    chosen: dict[int, Delivery] = {}
    seen: set[object] = set()
    for index, delivery in enumerate(deliveries):
        try:
            event = delivery.event
        except Unusable as error:
            if delivery.key not in seen:
                seen.add(delivery.key)
                failures[index] = _Failure(delivery, *_what_is_known(delivery), error)
        except Exception as error:  # judged when the delivery is handled on its own
            log.debug("unreadable in a batch", service=delivery.service, error=describe(error))
        else:
            if seen.isdisjoint((event.id, event.subject)):
                seen.update((event.id, event.subject))
                chosen[index] = delivery
    # Sorted, so that two batches lock the rows they share in the same order.
    order = sorted(chosen, key=lambda index: chosen[index].event.subject)
    for index, outcome in zip(order, _take_effect([chosen[index] for index in order], calls_at_once), strict=True):
        delivery = chosen[index]
        if isinstance(outcome, Failed):
            failures[index] = _Failure(delivery, delivery.event, delivery.reaction, outcome.error)
            continue
        outcomes[index] = outcome
        if isinstance(outcome, Done | Duplicate):
            _log_effect(outcome, delivery.event, delivery.reaction)
    for index, judged in zip(failures, _judge([*failures.values()]), strict=True):
        outcomes[index] = judged
    for delivery, ended in zip(deliveries, outcomes, strict=True):
        if not isinstance(ended, Unhandled):
            _measure(delivery, ended)
    return outcomes


def _take_effect(batch: Sequence[Delivery], calls_at_once: int) -> Sequence[Outcome | Unhandled | Failed]:
    if not batch:
        return []
    reaction = batch[0].reaction
    try:
        return take_effect(reaction, batch, calls_at_once)
    except Exception as error:  # judged when it happens to a delivery on its own
        if is_database_down(error):
            return [Failed(error)] * len(batch)
        failed_together(reaction, len(batch), error)
        return [Unhandled(alone=True)] * len(batch)


def handle_one(delivery: Delivery) -> Outcome:
    """Handle one delivery. Whatever comes back is committed: the message may be acknowledged.

    (For ``RetryLater``, once the ladder has confirmed it.) Never raises for anything the message, the reaction, the
    database or an external system did.
    """
    _begin([delivery])
    about: Envelope | None = None
    reaction: Reaction | None = None
    try:
        about = delivery.envelope
        reaction = delivery.reaction
        return _react(delivery)
    except Exception as error:  # every branch of a failure is there: a fault of the code is one of them
        return _judge([_Failure(delivery, about, reaction, error)])[0]


def give_up(delivery: Delivery, reason: str) -> Outcome:
    """Park a delivery that would be retried, and can't be put on the retry ladder.

    Returns:
        ``Parked``; ``Duplicate``, if a copy has taken effect; or
        ``RetryLater``, if the dead-letter table can't be written at this moment.
    """
    forget_retry(delivery)
    error = Unusable(f"the retry ladder can't take it: {reason}")
    return _judge([_Failure(delivery, *_what_is_known(delivery), error)])[0]


def resume(delivery: Delivery) -> bool:
    """Try now what waits on the ladder for another event. The copy on the ladder stays responsible for it.

    Returns:
        Whether it has taken effect. If not, nothing was changed, whatever went wrong.
    """
    _begin([delivery])
    try:
        _react(delivery)
    except Exception as error:  # whatever it is, it is judged when the ladder brings the copy
        log.info("not resumed", service=delivery.service, error=describe(error))
        return False
    return True


def try_out(delivery: Delivery) -> Outcome:
    """Have a delivery take effect, without any judgement of what goes wrong, for a caller that rolls it back.

    Raises:
        Exception: whatever the message or the reaction raises.
    """
    return _single(take_effect(delivery.reaction, [delivery]))


def _react(delivery: Delivery) -> Outcome:
    """Run the reaction, again at once while what it saw outside its transaction is out of date."""
    reaction, event = delivery.reaction, delivery.event
    for remaining in reversed(range(_CONFLICTS)):
        try:
            outcome = _single(take_effect(reaction, [delivery]))
        except Conflict:
            if remaining == 0:
                raise
        else:
            _log_effect(outcome, event, reaction)
            return outcome
    raise AssertionError("unreachable: the loop returns or raises")


def _begin(deliveries: Iterable[Delivery]) -> None:
    now = clock.now()
    for delivery in deliveries:
        delivery.started_at = now


def _single(outcomes: Sequence[Outcome | Unhandled | Failed]) -> Outcome:
    return cast(Outcome, outcomes[0])  # a single delivery is never Unhandled, and its error is raised


class _Failure(NamedTuple):
    """A delivery that did not take effect, and what is known of it."""

    delivery: Delivery
    about: Event[Any] | Envelope | None
    reaction: Reaction | None
    error: Exception


def _what_is_known(delivery: Delivery) -> tuple[Envelope | None, Reaction | None]:
    try:
        about = delivery.envelope
    except Unusable:
        return None, None
    try:
        return about, delivery.reaction
    except Unusable:
        return about, None


def _judge(failures: Sequence[_Failure]) -> list[RetryLater | Parked | Duplicate]:
    """Park what no retry can help, and say of the others when they are to be tried again."""
    verdicts = [_verdict(each.delivery, each.error) for each in failures]
    to_park = [
        Fault(*each, verdict.attempts) for each, verdict in _both(failures, verdicts) if isinstance(verdict, Park)
    ]
    down: Exception | None = None
    settled: set[int] = set()
    if to_park:
        try:
            settled = {id(fault.delivery) for fault in to_park if _is_duplicate(fault)}
            park([fault for fault in to_park if id(fault.delivery) not in settled])
        except Exception as unwritten:  # the dead-letter table can't be written: they have to wait for that
            log.error("parking failed", service=to_park[0].delivery.service, error=type(unwritten).__name__)
            down = unwritten
    outcomes: list[RetryLater | Parked | Duplicate] = []
    retries: list[Postponed] = []
    for (delivery, about, reaction, error), verdict in _both(failures, verdicts):
        if isinstance(verdict, Park):
            if id(delivery) in settled:
                _log("duplicate ignored", about, reaction)
                outcomes.append(Duplicate())
                continue
            if down is None:
                _log("delivery parked", about, reaction, error, logging.ERROR, attempts=verdict.attempts)
                outcomes.append(Parked(error))
                continue
            verdict, error = cast(TryAgain, _verdict(delivery, Outage())), down
        _log("delivery retried", about, reaction, error, delay=round(verdict.delay, 1))
        down_system, again = _what_is_down(error, reaction), _again(delivery, verdict)
        if down_system != DATABASE:
            retries.append(Postponed(delivery, again, verdict.rung, verdict.delay, error))
        outcomes.append(RetryLater(again, verdict.delay, error, down_system))
    if retries:
        record_retries(retries)
    return outcomes


def _is_duplicate(fault: Fault) -> bool:
    """It was given up, and had taken effect."""
    delivery, about, reaction = fault.delivery, fault.about, fault.reaction
    return bool(delivery.given_up and about and reaction and took_effect(delivery, reaction, about.id))


def _both(
    failures: Sequence[_Failure], verdicts: Sequence[TryAgain | Park]
) -> Iterable[tuple[_Failure, TryAgain | Park]]:
    return zip(failures, verdicts, strict=True)


def _verdict(delivery: Delivery, error: Exception) -> TryAgain | Park:
    return decide(error, delivery.history, clock.now(), clock.jitter(), conf())


def _again(delivery: Delivery, verdict: TryAgain) -> Outgoing:
    """The same message for the ladder, with the history so far and without what the broker recorded of its way."""
    own = {key: value for key, value in delivery.headers.items() if not key.startswith(BROKER_HEADERS)}
    history: dict[str, Any] = {
        ATTEMPTS: verdict.history.attempts,
        WAITS: verdict.history.waits,
        FIRST_SEEN: verdict.history.first_seen.isoformat(),
    }
    if delivery.given_up:
        history[GIVEN_UP] = delivery.given_up
    if came_back := max(delivery.came_back, SUSPICIOUS if delivery.exclusive else 0):
        history[CAME_BACK] = came_back
    return Outgoing(
        body=delivery.body,
        exchange="",
        routing_key=topology.retry_queue_name(delivery.service, verdict.rung),
        content_type=delivery.content_type,
        headers=own | history,
        expiration=verdict.delay,
    )


def _what_is_down(error: Exception, reaction: Reaction | None) -> str | None:
    if is_database_down(error):
        return DATABASE
    system = reaction.external_system if reaction else None
    return system.name if system and issubclass(classify(error), Outage) else None


def _measure(delivery: Delivery, outcome: Outcome) -> None:
    began, published = delivery.started_at, delivery.published_at
    is_first = delivery.attempts == 0
    metrics.delivery_ended(
        delivery.service,
        delivery.task.partition(".")[2],
        _OUTCOMES[type(outcome)],
        (began - published).total_seconds() if began and published and is_first else None,
        (clock.now() - began).total_seconds() if began and isinstance(outcome, Done) else None,
    )


def _log_effect(outcome: Outcome, event: Event[Any], reaction: Reaction) -> None:
    _log("reaction done" if isinstance(outcome, Done) else "duplicate ignored", event, reaction)


def _log(
    message: str,
    event: Event[Any] | Envelope | None,
    reaction: Reaction | None,
    error: Exception | None = None,
    level: int = logging.INFO,
    **more: Any,
) -> None:
    """One log line per outcome. No payload: it may hold personal data."""
    fields = {
        "event_id": str(event.id) if event else None,
        "event_type": event.type if event else None,
        "flow": event.subject if event else None,
        "reaction": reaction.name if reaction else None,
        "error": describe(error) if error else None,
    }
    log.log(level, message, **{name: value for name, value in (fields | more).items() if value is not None})
