"""What journal listens to: everything."""

from typing import Any

from choreography import Event, reacts_to
from choreography.events.messages import parse_type
from journal.contracts import account_types, event_types, report_types
from journal.heard import Account, Anything, Reports
from journal.history import Histories, History
from journal.reconciliation import reconcile


@reacts_to(*event_types(), rows=Histories())
def record_event(history: History, event: Event[Anything]) -> None:
    data: dict[str, Any] = event.data.model_extra or {}
    history.add_event(event, data)


@reacts_to(*report_types(), rows=Histories())
def record_outcomes(history: History, event: Event[Reports]) -> None:
    service = parse_type(event.type).service
    for report in event.data.deliveries:
        history.add_outcome(service, report)
    if event.data.status is not None:
        history.add_status(service, event.data.status)
    for pause in event.data.pauses:
        history.add_pause(service, pause)


@reacts_to(*account_types())
def compare_account(event: Event[Account]) -> None:
    reconcile(parse_type(event.type).service, event.data)
