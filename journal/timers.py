"""What journal does as time passes: mark what is overdue, count, tell people, forget what is old."""

from datetime import timedelta

from django.conf import settings
from django.db import transaction

from choreography.core import clock
from choreography.events.timers import every
from choreography.outbox.announcing import announce, transaction_of
from choreography.storage.bulk import update_rows
from journal import marks, minutes
from journal.contracts import declarations
from journal.culprits import Surroundings, explain
from journal.events import FlowOverdue
from journal.flow_state import FlowState
from journal.models import ALIAS, Entry, Flow, Outcome
from journal.notices import tell_people
from journal.retention import purge_flows

#: Flows checked in one transaction.
_AT_ONCE = 500
#: How late the journal may hear of events before it stops judging what is overdue.
_BEHIND = timedelta(seconds=15)


@every("CHECK_FLOWS_SECONDS")
def check_flows() -> None:
    """Mark the flows in which something is overdue, illegal or stalled."""
    if _is_behind():
        return
    while _check_some() == _AT_ONCE:
        continue


@every("COUNT_MINUTES_SECONDS")
def count_minutes() -> None:
    """Count what came in, for the map and the charts."""
    while minutes.count(Entry) or minutes.count(Outcome):
        continue


@every("TELL_PEOPLE_SECONDS")
def tell_of_marks() -> None:
    """Send mail and call the webhook for new marks."""
    tell_people()


@every("PURGE_FLOWS_SECONDS")
def purge_old_flows() -> None:
    """Delete flows that ended long ago."""
    purge_flows()


@every("EXPORT_TRACES_SECONDS")
def export_traces() -> None:
    """Export flows that have ended as traces, if that is wanted (``JOURNAL_TRACES``)."""
    if settings.JOURNAL_TRACES:
        from journal.traces import export_ended, otlp_exporter  # only where OpenTelemetry is installed

        while export_ended(otlp_exporter()):
            continue


def _check_some() -> int:
    now, declared = clock.now(), declarations()
    due = Flow.objects.filter(check_at__lte=now).order_by("check_at")
    with transaction_of("journal"):
        flows = [*due.select_for_update(skip_locked=_can_skip())[:_AT_ONCE]]
        states = {flow.pk: FlowState.read(flow.state) for flow in flows}
        new = marks.add([(flow, states[flow.pk]) for flow in flows], now, declared)
        around = Surroundings()
        for mark in new:
            explain(mark, states[mark.flow], around)
            announce(
                FlowOverdue(kind=mark.kind, what=mark.what, culprit=mark.culprit, remedy=mark.remedy), subject=mark.flow
            )
        update_rows(new, ["what", "remedy"], ALIAS)
        update_rows(flows, ["mark", "check_at"], ALIAS)
    return len(flows)


def _is_behind() -> bool:
    """The journal reads old events at this moment: what seems overdue may be in its queue."""
    newest = Entry.objects.order_by("-pk").first()
    if newest is None or newest.published_at is None:
        return False
    late = newest.recorded_at - newest.published_at > _BEHIND
    return late and clock.now() - newest.recorded_at < _BEHIND


def _can_skip() -> bool:
    return bool(transaction.get_connection(ALIAS).features.has_select_for_update_skip_locked)
