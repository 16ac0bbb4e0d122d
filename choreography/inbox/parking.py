"""What a service keeps of messages that did not take effect: the note of a retry, and the dead letter."""

import base64
import math
import traceback
from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any

import structlog
from django.db import DatabaseError, transaction

from choreography.broker.publisher import Outgoing
from choreography.core import clock
from choreography.core.conf import conf
from choreography.events.messages import Event, Headline
from choreography.events.registry import Reaction
from choreography.inbox.deliveries import FIRST_SEEN, Delivery
from choreography.inbox.fingerprints import fingerprint, place_of
from choreography.storage.models import alias_of, table_of

log = structlog.get_logger(__name__)


def note_retry(delivery: Delivery, again: Outgoing, seconds: float) -> None:
    """Note what goes to the ladder for so long, so that it is sent again if it does not come back (see ``overdue``).

    Where that can't be written the ladder alone is trusted: what a service can't note it must still be able to retry.
    """
    retry = table_of(delivery.service, "Retry")
    row = retry(
        key=delivery.key,
        body=again.body,
        content_type=_legible(again.content_type or "")[:200],
        headers=_plain(again.headers),
        overdue_at=clock.now() + timedelta(seconds=seconds) + conf().retry_overdue,
    )
    try:
        retry.objects.using(alias_of(delivery.service)).bulk_create(
            [row], update_conflicts=True, unique_fields=["key"], update_fields=["headers", "overdue_at", "copies"]
        )
    except DatabaseError as error:
        log.warning("retry not noted", service=delivery.service, error=type(error).__name__)


def park(
    delivery: Delivery,
    about: Event[Any] | Headline | None,
    reaction: Reaction | None,
    error: Exception,
    attempts: int,
) -> None:
    """Write the dead letter, or write on the one this message already has, and on what people did to it."""
    letters = table_of(delivery.service, "DeadLetter")
    actions = table_of(delivery.service, "DeadLetterAction")
    alias, key = alias_of(delivery.service), delivery.letter or delivery.key
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
        "parked_at": clock.now(),
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
        _are_back([delivery])
        letters.objects.using(alias).update_or_create(key=key, defaults=fault, create_defaults=fault | origin)
        actions.objects.using(alias).filter(letter__key=key, outcome=actions.Outcome.PENDING).update(
            outcome=actions.Outcome.PARKED, detail=f"{kind} {place}".rstrip(), ended_at=clock.now()
        )


def resolve(deliveries: Sequence[Delivery]) -> None:
    """They have taken effect: if a person had sent one again from the dead letters, the letter has done its work."""
    _are_back(deliveries)
    for delivery in deliveries:
        if delivery.letter is not None:
            resolve_letters(delivery.service, key=delivery.letter)


def resolve_letters(service: str, **which: Any) -> None:
    """Note on letters, and in their history, that they took effect. ``which`` selects them: ``key=...``."""
    alias = alias_of(service)
    letters = table_of(service, "DeadLetter")
    actions = table_of(service, "DeadLetterAction")
    now = clock.now()
    with transaction.atomic(using=alias):
        chosen = letters.objects.using(alias).filter(**which)
        waiting = actions.objects.using(alias).filter(letter__in=chosen, outcome=actions.Outcome.PENDING)
        waiting.update(outcome=actions.Outcome.RESOLVED, ended_at=now)
        chosen.update(state=letters.State.RESOLVED, resolved_at=now)


def _are_back(deliveries: Sequence[Delivery]) -> None:
    """Those of one service that were on the ladder are dealt with: nobody has to look for them."""
    keys = [delivery.key for delivery in deliveries if FIRST_SEEN in delivery.headers]
    if keys:
        service = deliveries[0].service
        table_of(service, "Retry").objects.using(alias_of(service)).filter(key__in=keys).delete()


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
