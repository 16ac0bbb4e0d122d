"""What a person can do with a dead letter: send it again, mend it and send it again, discard it.

Each leaves a line in the letter's history: who, when, why, and what came of it. What becomes of a message that was
sent again is told by ``handling``: in the transaction in which the reaction takes effect the letter is resolved, or it
is parked again with the new error. Trying out without any effect is in ``dry_run``, whole groups are in ``redrive``.
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
from choreography.inbox.deliveries import LETTER, NOTES_OF_THE_BROKER
from choreography.inbox.fingerprints import fingerprint
from choreography.inbox.parking import resolve_letters
from choreography.outbox.announcing import transaction_of
from choreography.outbox.relay import declare_topology
from choreography.storage.models import DeadLetter, DeadLetterAction, alias_of, table_of

log = structlog.get_logger(__name__)

#: A letter that was sent again and has had no answer for so long is overdue: its message may be lost (a queue was
#: purged) or still wait for something. It may then be sent once more, as the inbox makes that safe.
ANSWER_WITHIN = timedelta(minutes=15)

_OPEN = (DeadLetter.State.PARKED, DeadLetter.State.RETRYING)
#: Letters looked at in one go for whether their event has taken effect.
_NEWEST = 500
#: What the names of our own headers begin with: a delivery's history, and its letter.
_OURS = "x-choreography-"


class NotParked(ChoreographyError):
    """The letter was sent again already, or has done its work, or was discarded."""


class NoReason(ChoreographyError):
    """Discarding needs a reason."""


@dataclass(frozen=True)
class By:
    """Who does something to a letter, and why. It goes into the letter's history."""

    who: str = field(default_factory=lambda: the_one_at_the_keyboard())
    why: str = ""


@dataclass(frozen=True)
class Group:
    """The letters of one fingerprint that still need somebody or something."""

    fingerprint: str
    reaction: str
    error: str
    place: str
    parked: int
    sent_again: int
    overdue: int
    """How many of those that were sent again are overdue."""
    first_seen: datetime
    last_seen: datetime


def the_one_at_the_keyboard() -> str:
    """Whoever runs this process, by the operating system's name for them."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container's user may have a number only
        return str(os.getuid())


def groups(service: str, fingerprint: str | None = None) -> list[Group]:
    """A service's open letters by fingerprint, the largest group first. One query."""
    letters = table_of(service, "DeadLetter").objects.using(alias_of(service))
    open_ones = letters.filter(state__in=_OPEN)
    if fingerprint is not None:
        open_ones = open_ones.filter(fingerprint=fingerprint)
    rows = (
        open_ones.order_by()
        .values("fingerprint")
        .annotate(
            reaction=Max("reaction"),
            error=Max("error"),
            place=Max("place"),
            parked=Count("pk", filter=Q(state=DeadLetter.State.PARKED)),
            sent_again=Count("pk", filter=Q(state=DeadLetter.State.RETRYING)),
            overdue=Count("pk", filter=overdue()),
            first_seen=Min("first_parked_at"),
            last_seen=Max("parked_at"),
        )
        .order_by("-parked", "-last_seen")
    )
    return [Group(**row) for row in rows]


def open_letters(service: str, fingerprint: str) -> QuerySet[Any]:
    """The letters of a group, without what is large."""
    letters: QuerySet[Any] = table_of(service, "DeadLetter").objects.using(alias_of(service))
    return letters.filter(state__in=_OPEN, fingerprint=fingerprint).defer("body", "headers", "traceback")


def is_open(letter: DeadLetter) -> bool:
    """Whether something may be done about it: it is parked, or was sent again and has had no answer for long."""
    return letter.state == DeadLetter.State.PARKED or is_overdue(letter)


def is_overdue(letter: DeadLetter) -> bool:
    """It was sent again and has had no answer for ``ANSWER_WITHIN``."""
    return letter.state == DeadLetter.State.RETRYING and (
        letter.sent_at is None or clock.now() - letter.sent_at >= ANSWER_WITHIN
    )


def send_again(letter: DeadLetter, publisher: Publisher | None = None, by: By | None = None) -> None:
    """Put a letter's message back into its service's queue.

    It is published before the transaction commits: a crash in between leaves a letter that is still parked and a
    message more than needed, which the inbox absorbs; never a letter that waits for a message nobody sent.

    Args:
        publisher: where to; by default a connection of its own (see ``to_the_broker``).

    Raises:
        NotParked: it is not parked (any more); nothing was sent.
        Transient: the broker did not confirm; the letter is still parked.
    """
    service = letter._meta.app_label
    if publisher is None:
        with to_the_broker(service) as publisher:
            return send_again(letter, publisher, by)
    with transaction_of(service):
        held = _held(letter)
        note(held, by or By(), DeadLetterAction.What.RETRY)
        publish_again(service, [held], publisher)
    log.info("dead letter sent again", service=service, letter=letter.pk, reaction=letter.reaction)
    return None


def edit(letter: DeadLetter, body: bytes, by: By, publisher: Publisher | None = None) -> None:
    """Give a letter's message another body, and put it into its service's queue.

    The old body stays in the letter's history, beside the new one.

    Raises:
        editing.Refused: the service could not handle it, or it would be another event; nothing was changed.
        NotParked, Transient: as for ``send_again``; nothing was changed.
    """
    service = letter._meta.app_label
    if publisher is None:
        with to_the_broker(service) as publisher:
            return edit(letter, body, by, publisher)
    with transaction_of(service):
        held = _held(letter)
        old = bytes(held.body)
        headline, reaction = editing.check(service, old, body)
        note(held, by, DeadLetterAction.What.EDIT, old_body=old, new_body=body)
        held.body, held.content_type = body, CONTENT_TYPE
        held.event_id, held.event_type, held.subject = headline.id, headline.type, headline.subject
        held.reaction = reaction.name
        held.fingerprint = fingerprint(held.reaction, held.error, held.place)
        held.save()
        publish_again(service, [held], publisher)
    log.info("dead letter edited and sent again", service=service, letter=letter.pk, reaction=reaction.name)
    return None


def discard(letter: DeadLetter, by: By) -> None:
    """Decide that nothing is to come of a letter. It is kept, with the reason.

    Raises:
        NoReason: ``by`` does not say why.
        NotParked: it is not parked (any more).
    """
    if not by.why.strip():
        raise NoReason(_("Say why it is to be discarded."))
    service = letter._meta.app_label
    with transaction_of(service):
        held = _held(letter)
        note(held, by, DeadLetterAction.What.DISCARD, outcome=DeadLetterAction.Outcome.DISCARDED, ended_at=clock.now())
        held.state = DeadLetter.State.DISCARDED
        held.save(update_fields=["state"])
    log.info("dead letter discarded", service=service, letter=letter.pk, reaction=letter.reaction)


def note(letter: DeadLetter, by: By, what: DeadLetterAction.What, **more: Any) -> None:
    """Add a line to a letter's history. One that had no answer yet has none to wait for any more."""
    service = letter._meta.app_label
    lines = table_of(service, "DeadLetterAction").objects.using(alias_of(service))
    if what != DeadLetterAction.What.DRY_RUN:
        lines.filter(letter=letter, outcome=DeadLetterAction.Outcome.PENDING).update(
            outcome=DeadLetterAction.Outcome.SUPERSEDED, ended_at=clock.now()
        )
    lines.create(letter=letter, who=by.who, why=by.why.strip(), what=what, **more)


def publish_again(service: str, letters: Sequence[DeadLetter], publisher: Publisher) -> None:
    """Publish the messages of letters that this transaction holds, and mark them as sent."""
    table_of(service, "DeadLetter").objects.using(alias_of(service)).filter(
        pk__in=[letter.pk for letter in letters]
    ).update(state=DeadLetter.State.RETRYING, sent_at=clock.now())
    publisher.publish([_message(letter) for letter in letters])


def resolve_what_took_effect(service: str) -> int:
    """Resolve letters whose event took effect by another copy of the message.

    Looks at the newest letters only: a copy comes soon, and an older letter is resolved when it is sent again.

    Returns:
        How many were resolved.
    """
    alias = alias_of(service)
    letters = table_of(service, "DeadLetter").objects.using(alias)
    inbox = table_of(service, "Inbox").objects.using(alias)
    heard = Exists(inbox.filter(event_id=OuterRef("event_id"), reaction=OuterRef("reaction")))
    newest = letters.filter(state__in=_OPEN).annotate(heard=heard).order_by("-pk").values_list("pk", "heard")[:_NEWEST]
    found = [pk for pk, has_been_heard in newest if has_been_heard]
    if found:
        resolve_letters(service, pk__in=found)
    return len(found)


@contextmanager
def to_the_broker(service: str) -> Iterator[Publisher]:
    """A publisher for several letters of one service, with the service's queue sure to be there.

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


def _held(letter: DeadLetter) -> DeadLetter:
    """The letter as it is now, held against others until the transaction ends.

    Raises:
        NotParked: nothing may be done about it (any more).
    """
    service = letter._meta.app_label
    letters = table_of(service, "DeadLetter").objects.using(alias_of(service))
    held: DeadLetter = letters.select_for_update().get(pk=letter.pk)
    if not is_open(held):
        raise NotParked(
            _("%(letter)s is not parked but %(state)s.") % {"letter": held, "state": DeadLetter.State(held.state).label}
        )
    return held


def overdue() -> Q:
    """``is_overdue`` as a condition of a query."""
    return Q(state=DeadLetter.State.RETRYING) & (Q(sent_at=None) | Q(sent_at__lte=clock.now() - ANSWER_WITHIN))


def _message(letter: DeadLetter) -> Outgoing:
    return Outgoing(
        body=bytes(letter.body),
        exchange="",
        routing_key=topology.queue_name(letter._meta.app_label),
        content_type=letter.content_type or None,
        headers=_own(letter.headers) | {LETTER: letter.key},
        message_id=str(letter.event_id) if letter.event_id else None,
    )


def _own(headers: Mapping[str, Any]) -> dict[str, Any]:
    """The headers the message had when it was published: no history, so that its attempts count from the start."""
    return {name: value for name, value in headers.items() if not name.startswith((_OURS, *NOTES_OF_THE_BROKER))}
