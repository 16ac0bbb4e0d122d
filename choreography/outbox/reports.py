"""Reports on deliveries: written in the transaction that decides the outcome, published by the relay, then deleted.

A report row is small and short-lived: an array of ``DeliveryReport``, or one ``PauseReport``, in JSON. The relay puts
the rows of many transactions into one event. A relay that dies after publishing publishes them again: who reads them
must take the same report twice.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import structlog
from django.db import connections
from pydantic_core import to_json

from choreography.broker import topology
from choreography.broker.publisher import Outgoing, Publisher
from choreography.core import clock
from choreography.core.conf import conf
from choreography.core.errors import PublishRefused
from choreography.events.messages import Event
from choreography.events.registry import reactions
from choreography.events.reports import PauseReport, ServiceStatus, report_type
from choreography.storage.bulk import locking_for_repeatable_work, rows_locked
from choreography.storage.tables import ServiceTables

log = structlog.get_logger(__name__)

#: Report rows that go into one event, at most.
_ROWS = 500


def are_reported(service: str) -> bool:
    """Whether a service reports on its deliveries."""
    return service in conf().reports


def write(service: str, reports: Sequence[Mapping[str, Any]]) -> None:
    """Keep reports for the relay, in the transaction that is open now.

    Args:
        reports: with the fields of ``DeliveryReport``.
    """
    if not reports:
        return
    tables = ServiceTables(service)
    with connections[tables.alias].cursor() as cursor:
        cursor.execute(
            f'INSERT INTO "{tables.reports.model._meta.db_table}" (body) VALUES (%s)',  # noqa: S608
            [to_json(reports).decode()],
        )


def report_pause(service: str, pause: PauseReport) -> None:
    """Keep a report on a pause for the relay, in a transaction of its own, if the service reports."""
    if are_reported(service):
        ServiceTables(service).reports.create(body=pause.model_dump_json())


def publish_reports(service: str, publisher: Publisher) -> int:
    """Publish the oldest reports as one event, and delete them.

    Returns:
        How many rows there were.

    Raises:
        Transient: the broker did not confirm; the rows wait, and may be published twice.
    """
    if not are_reported(service):
        return 0
    tables = ServiceTables(service)
    table = tables.reports.model._meta.db_table
    select = f'SELECT position, body FROM "{table}" ORDER BY position LIMIT %s'  # noqa: S608
    with rows_locked(tables.alias), connections[tables.alias].cursor() as cursor:
        cursor.execute(locking_for_repeatable_work(select, tables.alias), [_ROWS])
        rows = _that_fit(cursor.fetchall())
        if not rows:
            return 0
        try:
            publisher.publish([_outgoing(service, [body for _, body in rows])])
        except PublishRefused as refused:  # the history has a gap then; the flow goes on
            log.error("reports refused", service=service, rows=len(rows), reason=refused.reasons[0])
        places = ", ".join(["%s"] * len(rows))
        cursor.execute(
            f'DELETE FROM "{table}" WHERE position IN ({places})',  # noqa: S608
            [position for position, _ in rows],
        )
    return len(rows)


def publish_status(service: str, publisher: Publisher) -> None:
    """Publish how the service is doing, if it reports.

    Raises:
        Transient: the broker did not confirm.
    """
    if are_reported(service):
        publisher.publish([_outgoing(service, [], status_of(service))])


def status_of(service: str) -> ServiceStatus:
    """How a service is doing, as its tables say now."""
    tables = ServiceTables(service)
    unpublished = tables.outbox.filter(published_at=None)
    waiting = unpublished.filter(refusal="")
    oldest = waiting.order_by("position").values_list("announced_at", flat=True).first()
    return ServiceStatus(
        at=clock.now(),
        outbox=waiting.count() if oldest else 0,
        oldest=oldest,
        refused=unpublished.exclude(refusal="").count(),
        retries=tables.retries.count(),
        parked=tables.dead_letters.filter(state=tables.dead_letters.model.State.PARKED).count(),
    )


def _that_fit(rows: Sequence[tuple[int, str]]) -> list[tuple[int, str]]:
    """As many as readers take in one event, and one at least."""
    chosen: list[tuple[int, str]] = []
    size = 1024  # the envelope
    for row in rows:
        size += len(row[1])
        if chosen and size > conf().max_body_bytes:
            break
        chosen.append(row)
    return chosen


def _outgoing(service: str, bodies: Sequence[str], status: ServiceStatus | None = None) -> Outgoing:
    event_id = clock.new_id()
    event = Event[Any](
        id=event_id,
        type=report_type(service),
        source=service,
        subject=str(event_id),
        time=clock.now(),
        correlationid=str(event_id),
        data=None,
    )
    # The rows are JSON already: an array of deliveries, or one pause.
    deliveries = ",".join(body[1:-1] for body in bodies if body.startswith("["))
    pauses = ",".join(body for body in bodies if body.startswith("{"))
    more = f',"status":{status.model_dump_json()}' if status else ""
    more += f',"pauses":[{pauses}]' if pauses else ""
    body = event.model_dump_json(exclude_none=True)[:-1] + f',"data":{{"deliveries":[{deliveries}]{more}}}}}'
    return Outgoing(
        body=body.encode(),
        exchange=topology.exchange_name(report_type(service)),
        message_id=str(event_id),
        mandatory=any(report_type(service) in reaction.event_types for reaction in reactions()),
    )
