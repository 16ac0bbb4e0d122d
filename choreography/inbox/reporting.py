"""What a service reports of its deliveries (``events.reports``), written with whatever decides their outcome."""

from collections.abc import Iterable
from datetime import datetime
from typing import Any

import structlog

from choreography.core import clock
from choreography.core.errors import describe
from choreography.events.reports import What
from choreography.inbox.deliveries import Delivery
from choreography.outbox import reports

log = structlog.get_logger(__name__)

#: Characters kept of an error.
_LONGEST_ERROR = 300


def report(service: str, outcomes: Iterable[dict[str, Any]]) -> None:
    """Keep reports for the relay, in the open transaction, if the service reports at all. See ``outcome_of``."""
    if reports.are_reported(service):
        reports.write(service, [*outcomes])


def outcome_of(
    delivery: Delivery,
    outcome: What,
    error: Exception | None = None,
    next_at: datetime | None = None,
    dead_letter: str | None = None,
) -> dict[str, Any]:
    """The report on one delivery, with the fields of ``DeliveryReport``."""
    return {
        **_about(delivery),
        "outcome": outcome,
        "attempt": delivery.attempts + 1,
        "error": storable(describe(error))[:_LONGEST_ERROR] if error else "",
        "dead_letter": dead_letter,
        "published_at": delivery.published_at,
        "received_at": delivery.received_at,
        "started_at": delivery.started_at,
        "ended_at": clock.now(),
        "next_at": next_at,
    }


def _about(delivery: Delivery) -> dict[str, Any]:
    event = _readable(delivery)
    if event is None:
        return {"event_id": None, "event_type": "", "subject": "", "flow": "", "reaction": ""}
    return {
        "event_id": str(event.id),
        "event_type": storable(event.type),
        "subject": storable(event.subject),
        "flow": storable(getattr(event, "correlationid", "") or event.subject),
        "reaction": delivery.reaction.name if delivery.has_reaction else "",
    }


def _readable(delivery: Delivery) -> Any:
    """What can be read of the event. Reading is judged elsewhere: whatever is wrong with it, the report is written."""
    for read in (lambda: delivery.event, lambda: delivery.envelope):
        try:
            return read()
        except Exception as error:
            log.debug("unreadable in a report", service=delivery.service, error=describe(error))
    return None


def storable(text: str) -> str:
    """Text as every database can hold it: PostgreSQL has no NUL, and UTF-8 no lone surrogates."""
    return text.encode(errors="replace").decode().replace("\0", "\N{REPLACEMENT CHARACTER}")
