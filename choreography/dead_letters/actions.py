"""What a person can do with a dead letter: send it again, edit it and send it again, discard it.

Each action leaves a line in the dead letter's history: who, when, why, and with what outcome. The outcome of a message
that was sent again is recorded by ``inbox.handler``: the dead letter is resolved in the transaction in which the
reaction takes effect, or it is parked again with the new error. Dry runs are in ``dry_runs``, whole groups in
``redrives``.
"""

import getpass
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

import structlog
from django.db.models import Count, Exists, Max, Min, OuterRef, Q, QuerySet
from django.utils.translation import gettext_lazy as _

from choreography.broker import topology
from choreography.broker.publisher import BrokerPublisher, Outgoing, Publisher, instead
from choreography.core import clock
from choreography.core.errors import ChoreographyError
from choreography.dead_letters import editing
from choreography.events.messages import CONTENT_TYPE
from choreography.events.reports import What
from choreography.inbox.deliveries import BROKER_HEADERS, DEAD_LETTER, Delivery
from choreography.inbox.fingerprints import fingerprint
from choreography.inbox.parking import resolve_dead_letters
from choreography.inbox.reporting import outcome_of, report
from choreography.outbox.announcing import transaction_of
from choreography.outbox.relay import declare_topology
from choreography.storage.models import DeadLetter, DeadLetterAction
from choreography.storage.tables import ServiceTables

log = structlog.get_logger(__name__)

#: A dead letter that was sent again and has had no outcome for so long is overdue: its message may be lost (a queue was
#: purged) or still wait for something. It may then be sent once more, as the inbox makes that safe.
OUTCOME_WITHIN = timedelta(minutes=15)

_OPEN = (DeadLetter.State.PARKED, DeadLetter.State.RETRYING)
#: Dead letters looked at in one go for whether their event has taken effect.
_NEWEST = 500
#: What the names of our own headers begin with: a delivery's history, and its dead letter.
_OURS = "x-choreography-"


class NotParked(ChoreographyError):
    """The dead letter was sent again already, is resolved, or was discarded."""


class NoReason(ChoreographyError):
    """Discarding needs a reason."""


@dataclass(frozen=True)
class By:
    """Who does something to a dead letter, and why. It goes into the dead letter's history."""

    who: str = field(default_factory=lambda: operating_system_user())
    why: str = ""


@dataclass(frozen=True)
class FingerprintGroup:
    """The open dead letters of one fingerprint."""

    fingerprint: str
    reaction: str
    error: str
    location: str
    parked: int
    sent_again: int
    overdue: int
    """How many of those that were sent again are overdue."""
    first_seen: datetime
    last_seen: datetime


def operating_system_user() -> str:
    """The operating system's name of whoever runs this process."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container's user may have a number only
        return str(os.getuid())


def groups(service: str, fingerprint: str | None = None) -> list[FingerprintGroup]:
    """A service's open dead letters by fingerprint, the largest group first. One query."""
    dead_letters = ServiceTables(service).dead_letters
    open_ones = dead_letters.filter(state__in=_OPEN)
    if fingerprint is not None:
        open_ones = open_ones.filter(fingerprint=fingerprint)
    rows = (
        open_ones.order_by()
        .values("fingerprint")
        .annotate(
            reaction=Max("reaction"),
            error=Max("error"),
            location=Max("location"),
            parked=Count("pk", filter=Q(state=DeadLetter.State.PARKED)),
            sent_again=Count("pk", filter=Q(state=DeadLetter.State.RETRYING)),
            overdue=Count("pk", filter=overdue()),
            first_seen=Min("first_parked_at"),
            last_seen=Max("parked_at"),
        )
        .order_by("-parked", "-last_seen")
    )
    return [FingerprintGroup(**row) for row in rows]


def open_dead_letters(service: str, fingerprint: str) -> QuerySet[Any]:
    """The dead letters of a group, without what is large."""
    dead_letters: QuerySet[Any] = ServiceTables(service).dead_letters
    return dead_letters.filter(state__in=_OPEN, fingerprint=fingerprint).defer("body", "headers", "traceback")


def is_open(dead_letter: DeadLetter) -> bool:
    """Whether something may be done about it: it is parked, or was sent again and is overdue."""
    return dead_letter.state == DeadLetter.State.PARKED or is_overdue(dead_letter)


def is_overdue(dead_letter: DeadLetter) -> bool:
    """It was sent again and has had no outcome for ``OUTCOME_WITHIN``."""
    return dead_letter.state == DeadLetter.State.RETRYING and (
        dead_letter.sent_at is None or clock.now() - dead_letter.sent_at >= OUTCOME_WITHIN
    )


def send_again(dead_letter: DeadLetter, publisher: Publisher | None = None, by: By | None = None) -> None:
    """Put a dead letter's message back into its service's queue.

    It is published before the transaction commits: a crash in between leaves a dead letter that is still parked and a
    message more than needed, which the inbox absorbs; never a dead letter that waits for a message that was not sent.

    Args:
        publisher: where to; by default a connection of its own (see ``to_the_broker``).

    Raises:
        NotParked: it is not parked (any more); nothing was sent.
        Transient: the broker did not confirm; the dead letter is still parked.
        PublishRefused: the broker will never take it; likewise.
    """
    service = dead_letter._meta.app_label
    if publisher is None:
        with to_the_broker(service) as publisher:
            return send_again(dead_letter, publisher, by)
    with transaction_of(service):
        locked = _locked(dead_letter)
        record_action(locked, by or By(), DeadLetterAction.What.RETRY)
        publish_again(service, [locked], publisher, by or By())
    log.info("dead letter sent again", service=service, dead_letter=dead_letter.pk, reaction=dead_letter.reaction)
    return None


def edit(dead_letter: DeadLetter, body: bytes, by: By, publisher: Publisher | None = None) -> None:
    """Give a dead letter's message another body, and put it into its service's queue.

    The old body stays in the dead letter's history, beside the new one.

    Raises:
        editing.Refused: the service could not handle it, or it would be another event; nothing was changed.
        NotParked, Transient, PublishRefused: as for ``send_again``; nothing was changed.
    """
    service = dead_letter._meta.app_label
    if publisher is None:
        with to_the_broker(service) as publisher:
            return edit(dead_letter, body, by, publisher)
    with transaction_of(service):
        locked = _locked(dead_letter)
        old = bytes(locked.body)
        envelope, reaction = editing.check(service, old, body)
        record_action(locked, by, DeadLetterAction.What.EDIT, old_body=old, new_body=body)
        locked.body, locked.content_type = body, CONTENT_TYPE
        locked.event_id, locked.event_type, locked.subject = envelope.id, envelope.type, envelope.subject
        locked.reaction = reaction.name
        locked.fingerprint = fingerprint(locked.reaction, locked.error, locked.location)
        locked.save()
        publish_again(service, [locked], publisher, by)
    log.info("dead letter edited and sent again", service=service, dead_letter=dead_letter.pk, reaction=reaction.name)
    return None


def discard(dead_letter: DeadLetter, by: By) -> None:
    """Decide that nothing is to come of a dead letter. It is kept, with the reason.

    Raises:
        NoReason: ``by`` does not say why.
        NotParked: it is not parked (any more).
    """
    if not by.why.strip():
        raise NoReason(_("Say why it is to be discarded."))
    service = dead_letter._meta.app_label
    with transaction_of(service):
        locked = _locked(dead_letter)
        record_action(
            locked, by, DeadLetterAction.What.DISCARD, outcome=DeadLetterAction.Outcome.DISCARDED, ended_at=clock.now()
        )
        locked.state = DeadLetter.State.DISCARDED
        locked.save(update_fields=["state"])
        report(service, [_as_reported(locked, "discarded", by)])
    log.info("dead letter discarded", service=service, dead_letter=dead_letter.pk, reaction=dead_letter.reaction)


def record_action(dead_letter: DeadLetter, by: By, what: DeadLetterAction.What, **more: Any) -> None:
    """Add a line to a dead letter's history. An earlier one without an outcome is superseded."""
    service = dead_letter._meta.app_label
    lines = ServiceTables(service).actions
    if what != DeadLetterAction.What.DRY_RUN:
        lines.filter(Q(dead_letter=dead_letter), outcome=DeadLetterAction.Outcome.PENDING).update(
            outcome=DeadLetterAction.Outcome.SUPERSEDED, ended_at=clock.now()
        )
    lines.create(dead_letter=dead_letter, who=by.who, why=by.why.strip(), what=what, **more)


def publish_again(service: str, dead_letters: Sequence[DeadLetter], publisher: Publisher, by: By) -> None:
    """Publish the messages of dead letters that this transaction has locked, and mark them as sent."""
    ServiceTables(service).dead_letters.filter(pk__in=[dead_letter.pk for dead_letter in dead_letters]).update(
        state=DeadLetter.State.RETRYING, sent_at=clock.now()
    )
    report(service, (_as_reported(dead_letter, "sent_again", by) for dead_letter in dead_letters))
    publisher.publish([message_of(dead_letter) for dead_letter in dead_letters])


def _as_reported(dead_letter: DeadLetter, what: What, by: By) -> dict[str, Any]:
    delivery = Delivery(dead_letter._meta.app_label, bytes(dead_letter.body), dead_letter.content_type or None)
    return outcome_of(delivery, what, dead_letter=dead_letter.key) | {"who": by.who}


def resolve_what_took_effect(service: str) -> int:
    """Resolve dead letters whose event took effect by another copy of the message.

    Looks at the newest only: a copy comes soon, and an older dead letter is resolved when it is sent again.

    Returns:
        How many were resolved.
    """
    dead_letters = ServiceTables(service).dead_letters
    inbox = ServiceTables(service).inbox
    heard = Exists(inbox.filter(event_id=OuterRef("event_id"), reaction=OuterRef("reaction")))
    newest = (
        dead_letters.filter(state__in=_OPEN).annotate(heard=heard).order_by("-pk").values_list("pk", "heard")[:_NEWEST]
    )
    found = [pk for pk, has_been_heard in newest if has_been_heard]
    if found:
        with transaction_of(service):
            resolve_dead_letters(service, pk__in=found)
            resolved = dead_letters.filter(pk__in=found)
            report(service, [_as_reported(dead_letter, "duplicate", By("")) for dead_letter in resolved])
    return len(found)


@contextmanager
def to_the_broker(service: str) -> Iterator[Publisher]:
    """A publisher for several dead letters of one service, with the service's queue sure to be there.

    RabbitMQ drops, and confirms, what is published to a queue that does not exist.

    Raises:
        Transient: the broker can't be reached.
    """
    if (other := instead()) is not None:
        yield other
        return
    declare_topology(service)
    publisher = BrokerPublisher()
    try:
        yield publisher
    finally:
        publisher.close()


def _locked(dead_letter: DeadLetter) -> DeadLetter:
    """The dead letter as it is now, locked against others until the transaction ends.

    Raises:
        NotParked: nothing may be done about it (any more).
    """
    service = dead_letter._meta.app_label
    dead_letters = ServiceTables(service).dead_letters
    locked: DeadLetter = dead_letters.select_for_update().get(pk=dead_letter.pk)
    if not is_open(locked):
        raise NotParked(
            _("%(dead_letter)s is not parked but %(state)s.")
            % {"dead_letter": locked, "state": DeadLetter.State(locked.state).label}
        )
    return locked


def overdue() -> Q:
    """``is_overdue`` as a condition of a query."""
    return Q(state=DeadLetter.State.RETRYING) & (Q(sent_at=None) | Q(sent_at__lte=clock.now() - OUTCOME_WITHIN))


def message_of(dead_letter: DeadLetter) -> Outgoing:
    """The message with which it is sent again."""
    return Outgoing(
        body=bytes(dead_letter.body),
        exchange="",
        routing_key=topology.queue_name(dead_letter._meta.app_label),
        content_type=dead_letter.content_type or None,
        headers=_own(dead_letter.headers) | {DEAD_LETTER: dead_letter.key},
        message_id=str(dead_letter.event_id) if dead_letter.event_id else None,
    )


def _own(headers: Mapping[str, Any]) -> dict[str, Any]:
    """The headers the message had when it was published: no history, so that its attempts count from the start."""
    return {name: value for name, value in headers.items() if not name.startswith((_OURS, *BROKER_HEADERS))}
