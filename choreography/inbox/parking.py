"""What a service keeps of messages that did not take effect: the record of a retry, and the dead letter."""

import base64
import math
import traceback
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, NamedTuple

import structlog
from django.db import DatabaseError, InterfaceError, transaction
from django.db.models import Q

from choreography.broker.publisher import Outgoing
from choreography.core import clock
from choreography.core.conf import conf
from choreography.core.errors import NotYet
from choreography.events.messages import Envelope, Event
from choreography.events.registry import Reaction
from choreography.events.reports import What
from choreography.inbox.deliveries import FIRST_SEEN, Delivery
from choreography.inbox.fingerprints import fingerprint, location_of
from choreography.inbox.reporting import outcome_of, report, storable
from choreography.storage.tables import ServiceTables

log = structlog.get_logger(__name__)

#: The rest of a dead letter stays as it was when the message was parked first.
_CHANGED_WHEN_PARKED_AGAIN = (
    "state",
    "fingerprint",
    "reaction",
    "error",
    "location",
    "message",
    "traceback",
    "attempts",
    "parked_at",
    "resolved_at",
)


class Fault(NamedTuple):
    """A delivery to park: what is known of it, why, and after how many attempts."""

    delivery: Delivery
    about: Event[Any] | Envelope | None
    reaction: Reaction | None
    error: Exception
    attempts: int


class Postponed(NamedTuple):
    """A delivery to try again: what is published to the ladder, on which rung (seconds), for how long, and why."""

    delivery: Delivery
    again: Outgoing
    rung: float
    delay: float
    error: Exception


def record_retries(retries: Sequence[Postponed]) -> None:
    """Record what goes to the ladder, so that it is published again if it is lost (``lost_retries``), and report it.

    Where the record can't be written, the ladder alone is relied on: retrying must not depend on it.

    Args:
        retries: of deliveries to one service.
    """
    service = retries[0].delivery.service
    tables = ServiceTables(service)
    now = clock.now()
    rows = {
        each.delivery.key: tables.retries.model(
            key=each.delivery.key,
            body=each.again.body,
            content_type=storable(each.again.content_type or "")[:200],
            headers=_as_json(each.again.headers),
            due_back_at=now + timedelta(seconds=each.rung) + conf().lost_retry_after,
        )
        for each in retries
    }
    changed = ["headers", "due_back_at", "copies"]
    try:
        with transaction.atomic(using=tables.alias):
            tables.retries.bulk_create(
                _in_order(rows), update_conflicts=True, unique_fields=["key"], update_fields=changed
            )
            report(service, (_as_reported(each, now) for each in retries))
    except (DatabaseError, InterfaceError) as error:
        log.warning("retry not recorded", service=service, error=type(error).__name__)


def _as_reported(postponed: Postponed, now: datetime) -> dict[str, Any]:
    what: What = "waiting" if isinstance(postponed.error, NotYet) else "retried"
    return outcome_of(postponed.delivery, what, postponed.error, next_at=now + timedelta(seconds=postponed.delay))


def forget_retry(delivery: Delivery) -> None:
    """The ladder has refused it. Where the record can't be deleted, its message will be parked when it comes."""
    retries = ServiceTables(delivery.service).retries
    try:
        retries.filter(key=delivery.key).delete()
    except (DatabaseError, InterfaceError) as error:
        log.warning("retry not forgotten", service=delivery.service, error=type(error).__name__)


def park(faults: Sequence[Fault]) -> None:
    """Write the dead letters, or update those these messages have already, and what people did to them.

    Args:
        faults: of one service, no two of one message.
    """
    if not faults:
        return
    tables = ServiceTables(faults[0].delivery.service)
    rows = {row.key: row for row in (_dead_letter(tables, fault) for fault in faults)}
    by_detail: dict[str, list[str]] = {}
    for row in rows.values():
        by_detail.setdefault(f"{row.error} {row.location}".rstrip(), []).append(row.key)
    outcomes = tables.actions.model.Outcome
    with transaction.atomic(using=tables.alias):
        _forget_retries([fault.delivery for fault in faults])
        tables.dead_letters.bulk_create(
            _in_order(rows), update_conflicts=True, unique_fields=["key"], update_fields=_CHANGED_WHEN_PARKED_AGAIN
        )
        for detail, keys in by_detail.items():
            tables.actions.filter(Q(dead_letter__key__in=keys), outcome=outcomes.PENDING).update(
                outcome=outcomes.PARKED, detail=detail, ended_at=clock.now()
            )
        report(
            tables.service,
            (
                outcome_of(
                    fault.delivery,
                    "parked",
                    fault.error,
                    dead_letter=fault.delivery.dead_letter or fault.delivery.key,
                )
                for fault in faults
            ),
        )


def _dead_letter(tables: ServiceTables, fault: Fault) -> Any:
    delivery, about, reaction, error, attempts = fault
    name, kind, location = reaction.name if reaction else "", type(error).__name__, location_of(error)
    now = clock.now()
    return tables.dead_letters.model(
        key=delivery.dead_letter or delivery.key,
        state=tables.dead_letters.model.State.PARKED,
        fingerprint=fingerprint(name, kind, location),
        reaction=name,
        error=kind,
        location=location,
        message=storable(str(error)),
        traceback=storable("".join(traceback.format_exception(error))),
        attempts=attempts,
        parked_at=now,
        event_id=about.id if about else None,
        event_type=storable(about.type)[:200] if about else "",
        subject=storable(about.subject) if about else "",
        body=delivery.body,
        content_type=storable(delivery.content_type or "")[:200],
        headers=_as_json(delivery.headers),
        first_parked_at=now,
    )


def _in_order(rows: Mapping[str, Any]) -> list[Any]:
    """By key, so that two transactions that write the same rows don't deadlock."""
    return [rows[key] for key in sorted(rows)]


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
            return {storable(str(key)): plain(item) for key, item in value.items()}
        if isinstance(value, list | tuple):
            return [plain(item) for item in value]
        if isinstance(value, int | None) or (isinstance(value, float) and math.isfinite(value)):
            return value
        return storable(str(value))

    return {storable(str(key)): plain(value) for key, value in headers.items()}
