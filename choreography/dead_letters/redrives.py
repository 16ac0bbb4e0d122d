"""Send all parked dead letters of one fingerprint again, carefully: one, then five, then fifty at a time.

A step begins when every dead letter of the one before has taken effect, and the first that is parked again stops the
redrive. A redrive is a row that a timer of the service advances (``advance_all``), so it survives the death of any
process. A command that follows it may advance it as well: each locks the row.
"""

from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import structlog
from django.db import IntegrityError
from django.db.models import Count, Q, QuerySet
from django.utils.translation import gettext as _

from choreography.broker.publisher import Publisher
from choreography.core import clock
from choreography.core.errors import ChoreographyError, PublishRefused, Transient
from choreography.dead_letters.actions import (
    OUTCOME_WITHIN,
    By,
    overdue,
    publish_again,
    record_action,
    resolve_what_took_effect,
    to_the_broker,
)
from choreography.events.timers import for_each
from choreography.outbox.announcing import transaction_of
from choreography.storage.models import DeadLetter, DeadLetterAction, Redrive
from choreography.storage.tables import ServiceTables

log = structlog.get_logger(__name__)

#: Dead letters in the first, the second and every later step.
STEPS = (1, 5, 50)
#: Dead letters per second: unless said otherwise, and at most.
RATE, HIGHEST_RATE = 10.0, 100.0

_SECOND = timedelta(seconds=1)
_PENDING, _PARKED = DeadLetterAction.Outcome.PENDING, DeadLetterAction.Outcome.PARKED


class CannotStart(ChoreographyError):
    """There is nothing to send, the group is being sent already, or the rate makes no sense."""


@dataclass(frozen=True)
class Progress:
    """The progress of a redrive, in dead letters."""

    sent: int
    resolved: int
    pending: int
    left: int
    """Still to be sent."""


def start(service: str, fingerprint: str, by: By, rate: float = RATE) -> Redrive:
    """Begin to send the dead letters again that are parked now. Nothing is sent yet: ``advance`` does.

    Raises:
        CannotStart: no dead letter of that fingerprint is parked, the group is being sent already, or ``rate`` is not
            above 0 and at most ``HIGHEST_RATE`` dead letters per second.
    """
    if not 0 < rate <= HIGHEST_RATE:
        raise CannotStart(_("The rate must be above 0 and at most %d dead letters per second.") % HIGHEST_RATE)
    redrives = ServiceTables(service).redrives
    redrive: Redrive = redrives.model(fingerprint=fingerprint, rate=rate, who=by.who, why=by.why.strip())
    if not _candidates(redrive).exists():
        raise CannotStart(_("No dead letter of %s is parked.") % fingerprint)
    try:
        with transaction_of(service):
            redrive.save()
    except IntegrityError:
        raise CannotStart(_("%s is being sent again already.") % fingerprint) from None
    log.info("redrive started", service=service, fingerprint=fingerprint, redrive=redrive.pk)
    return redrive


def running(service: str, fingerprint: str | None = None) -> QuerySet[Any]:
    """The redrives that are under way, of all groups or of one."""
    found: QuerySet[Any] = ServiceTables(service).redrives
    found = found.filter(state=Redrive.State.RUNNING)
    return found if fingerprint is None else found.filter(fingerprint=fingerprint)


def stop(redrive: Redrive, by: By) -> Redrive:
    """Send nothing more. What was sent still has its outcome recorded. One that has ended stays as it is."""
    with transaction_of(redrive._meta.app_label):
        locked = _locked(redrive)
        if locked.state == Redrive.State.RUNNING:
            _end(locked, Redrive.State.STOPPED, _("Stopped by %s. %s") % (by.who, by.why.strip()))
        return locked


def advance_all(service: str) -> None:
    """Advance every redrive, and resolve what took effect by another copy. A timer calls it."""
    resolve_what_took_effect(service)
    under_way = list(running(service))
    if not under_way:
        return
    try:
        with to_the_broker(service) as publisher:

            def advance_one(redrive: Redrive) -> None:
                advance(redrive, publisher)

            for_each(under_way, advance_one)
    except Transient as error:
        log.warning("redrive waits", service=service, error=type(error).__name__)


def advance(redrive: Redrive, publisher: Publisher) -> Redrive:
    """Advance a redrive as far as its step, its rate and the outcomes so far allow.

    Returns:
        It as it is now.

    Raises:
        Transient: the broker did not take the dead letters; nothing has changed.
    """
    try:
        return _advance(redrive, publisher)
    except PublishRefused as refused:
        with transaction_of(redrive._meta.app_label):
            locked = _locked(redrive)
            return (
                _end(locked, Redrive.State.STOPPED, str(refused)) if locked.state == Redrive.State.RUNNING else locked
            )


def _advance(redrive: Redrive, publisher: Publisher) -> Redrive:
    service = redrive._meta.app_label
    with transaction_of(service):
        locked = _locked(redrive)
        if locked.state != Redrive.State.RUNNING:
            return locked
        lines = _lines(locked)
        if refusal := _refusal(lines):
            return _end(locked, Redrive.State.STOPPED, refusal)
        room = _size(locked.step) - lines.filter(step=locked.step).count()
        waiting = lines.filter(outcome=_PENDING).exists()
        if room <= 0 and not waiting:
            locked.step += 1
            room = _size(locked.step)
        at_once = max(1, int(locked.rate))
        dead_letters = list(_candidates(locked).select_for_update().order_by("pk")[: max(0, min(room, at_once))])
        if not dead_letters:
            return locked if waiting else _end(locked, Redrive.State.DONE)
        if clock.now() < locked.next_at:
            return locked
        by = By(locked.who, locked.why)
        for dead_letter in dead_letters:
            record_action(dead_letter, by, DeadLetterAction.What.RETRY, redrive=locked, step=locked.step)
        # A tick that comes late may catch up on one second at most.
        locked.next_at = max(locked.next_at, clock.now() - _SECOND) + len(dead_letters) / locked.rate * _SECOND
        locked.save()
        publish_again(service, dead_letters, publisher, by)
        return locked


def progress(redrive: Redrive) -> Progress:
    """Its progress now."""
    counts = _lines(redrive).aggregate(
        sent=Count("pk"),
        resolved=Count("pk", filter=Q(outcome=DeadLetterAction.Outcome.RESOLVED)),
        pending=Count("pk", filter=Q(outcome=_PENDING)),
    )
    return Progress(**counts, left=_candidates(redrive).count())


def _locked(redrive: Redrive) -> Redrive:
    """It as it is now, locked against others until the transaction ends."""
    service = redrive._meta.app_label
    redrives = ServiceTables(service).redrives
    locked: Redrive = redrives.select_for_update().get(pk=redrive.pk)
    return locked


def _lines(redrive: Redrive) -> QuerySet[Any]:
    service = redrive._meta.app_label
    lines: QuerySet[Any] = ServiceTables(service).actions
    return lines.filter(Q(redrive=redrive))


def _candidates(redrive: Redrive) -> QuerySet[Any]:
    """The group's dead letters that were there when it began, and have not been sent."""
    service = redrive._meta.app_label
    dead_letters: QuerySet[Any] = ServiceTables(service).dead_letters
    there = dead_letters.filter(fingerprint=redrive.fingerprint, parked_at__lte=redrive.started_at)
    return there.filter(Q(state=DeadLetter.State.PARKED) | overdue())


def _refusal(lines: QuerySet[Any]) -> str:
    """Why it must not continue, or ``""``."""
    failed = lines.filter(outcome=_PARKED).order_by("ended_at").first()
    if failed:
        return _("Dead letter %d was parked again: %s") % (failed.dead_letter_id, failed.detail)
    late = lines.filter(outcome=_PENDING, at__lte=clock.now() - OUTCOME_WITHIN).first()
    if late:
        minutes = OUTCOME_WITHIN // timedelta(minutes=1)
        return _("Dead letter %d has had no outcome for %d minutes.") % (late.dead_letter_id, minutes)
    return ""


def _end(redrive: Redrive, state: Redrive.State, why: str = "") -> Redrive:
    redrive.state, redrive.note, redrive.ended_at = state, why.strip(), clock.now()
    redrive.save()
    log.info("redrive ended", service=redrive._meta.app_label, redrive=redrive.pk, state=state.value)
    return redrive


def _size(step: int) -> int:
    return STEPS[min(step, len(STEPS) - 1)]
