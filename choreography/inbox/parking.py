"""What a service keeps of messages that did not take effect: the record of a retry, and the dead letter."""

import base64
import math
import traceback
from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any

import structlog
from django.db import DatabaseError, transaction
from django.db.models import Q

from choreography.broker.publisher import Outgoing
from choreography.core import clock
from choreography.core.conf import conf
from choreography.events.messages import Envelope, Event
from choreography.events.registry import Reaction
from choreography.inbox.deliveries import FIRST_SEEN, Delivery
from choreography.inbox.fingerprints import fingerprint, location_of
from choreography.storage.tables import ServiceTables

log = structlog.get_logger(__name__)


def record_retry(delivery: Delivery, again: Outgoing, seconds: float) -> None:
    """Record what goes to the ladder for so long, so that it is published again if it is lost (``lost_retries``).

    Where the record can't be written, the ladder alone is relied on: retrying must not depend on it.
    """
    retries = ServiceTables(delivery.service).retries
    row = retries.model(
        key=delivery.key,
        body=again.body,
        content_type=_storable(again.content_type or "")[:200],
        headers=_as_json(again.headers),
        due_back_at=clock.now() + timedelta(seconds=seconds) + conf().lost_retry_after,
    )
    try:
        retries.bulk_create(
            [row], update_conflicts=True, unique_fields=["key"], update_fields=["headers", "due_back_at", "copies"]
        )
    except DatabaseError as error:
        log.warning("retry not recorded", service=delivery.service, error=type(error).__name__)


def forget_retry(delivery: Delivery) -> None:
    """The ladder has refused it. Where the record can't be deleted, its message will be parked when it comes."""
    retries = ServiceTables(delivery.service).retries
    try:
        retries.filter(key=delivery.key).delete()
    except DatabaseError as error:
        log.warning("retry not forgotten", service=delivery.service, error=type(error).__name__)


def park(
    delivery: Delivery,
    about: Event[Any] | Envelope | None,
    reaction: Reaction | None,
    error: Exception,
    attempts: int,
) -> None:
    """Write the dead letter, or update the one this message has already, and what people did to it."""
    tables = ServiceTables(delivery.service)
    states, outcomes = tables.dead_letters.model.State, tables.actions.model.Outcome
    key = delivery.dead_letter or delivery.key
    name, kind, location = reaction.name if reaction else "", type(error).__name__, location_of(error)
    fault = {
        "state": states.PARKED,
        "fingerprint": fingerprint(name, kind, location),
        "reaction": name,
        "error": kind,
        "location": location,
        "message": _storable(str(error)),
        "traceback": _storable("".join(traceback.format_exception(error))),
        "attempts": attempts,
        "parked_at": clock.now(),
        "resolved_at": None,
    }
    origin = {
        "event_id": about and about.id,
        "event_type": _storable(about.type)[:200] if about else "",
        "subject": _storable(about.subject) if about else "",
        "body": delivery.body,
        "content_type": _storable(delivery.content_type or "")[:200],
        "headers": _as_json(delivery.headers),
        "first_parked_at": fault["parked_at"],
    }
    with transaction.atomic(using=tables.alias):
        _forget_retries([delivery])
        tables.dead_letters.update_or_create(key=key, defaults=fault, create_defaults=fault | origin)
        tables.actions.filter(Q(dead_letter__key=key), outcome=outcomes.PENDING).update(
            outcome=outcomes.PARKED, detail=f"{kind} {location}".rstrip(), ended_at=clock.now()
        )


def resolve(deliveries: Sequence[Delivery]) -> None:
    """They have taken effect: resolve the dead letters that people had sent again."""
    _forget_retries(deliveries)
    for delivery in deliveries:
        if delivery.dead_letter is not None:
            resolve_dead_letters(delivery.service, key=delivery.dead_letter)


def resolve_dead_letters(service: str, **which: Any) -> None:
    """Record on dead letters, and in their history, that they took effect. ``which`` selects them: ``key=...``."""
    tables = ServiceTables(service)
    states, outcomes = tables.dead_letters.model.State, tables.actions.model.Outcome
    now = clock.now()
    with transaction.atomic(using=tables.alias):
        chosen = tables.dead_letters.filter(**which)
        pending = tables.actions.filter(Q(dead_letter__in=chosen), outcome=outcomes.PENDING)
        pending.update(outcome=outcomes.RESOLVED, ended_at=now)
        chosen.update(state=states.RESOLVED, resolved_at=now)


def _forget_retries(deliveries: Sequence[Delivery]) -> None:
    """Those of one service that were on the ladder are dealt with: they are not lost."""
    keys = [delivery.key for delivery in deliveries if FIRST_SEEN in delivery.headers]
    if keys:
        ServiceTables(deliveries[0].service).retries.filter(key__in=keys).delete()


def _as_json(headers: Mapping[str, Any]) -> dict[str, Any]:
    """Headers as JSON can hold them: bytes as base64, anything else unknown as its text."""

    def plain(value: Any) -> Any:
        if isinstance(value, bytes):
            return base64.b64encode(value).decode()
        if isinstance(value, Mapping):
            return {_storable(str(key)): plain(item) for key, item in value.items()}
        if isinstance(value, list | tuple):
            return [plain(item) for item in value]
        if isinstance(value, int | None) or (isinstance(value, float) and math.isfinite(value)):
            return value
        return _storable(str(value))

    return {_storable(str(key)): plain(value) for key, value in headers.items()}


def _storable(text: str) -> str:
    """Text as every database can hold it: PostgreSQL has no NUL, and UTF-8 no lone surrogates."""
    return text.encode(errors="replace").decode().replace("\0", "\N{REPLACEMENT CHARACTER}")
