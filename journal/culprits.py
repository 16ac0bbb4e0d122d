"""Why a flow is overdue: which process of which service to look at, and what to do."""

from datetime import timedelta

from choreography.broker import topology
from choreography.broker.publisher import broker_errors, connect, instead, reach
from choreography.broker.topology import Waiting
from choreography.core import clock
from journal.flow_state import FlowState
from journal.models import Flow, MarkOfFlow, Pause, Pauses, ServiceStatus

#: A relay says every 5 seconds how its service is doing.
SILENT_AFTER = timedelta(seconds=15)


class Surroundings:
    """What can be seen of the services from outside, looked up once per service."""

    def __init__(self) -> None:
        self._queues: dict[str, Waiting | None] = {}
        self._statuses = {status.service: status for status in ServiceStatus.objects.all()}
        self._pauses = Pause.objects.going_on()

    def queue(self, service: str) -> Waiting | None:
        """``None``: there is none. Where the broker can't be asked, one that says nothing."""
        if service not in self._queues:
            self._queues[service] = look_at_queue(service)
        return self._queues[service]

    def status(self, service: str) -> ServiceStatus | None:
        return self._statuses.get(service)

    def pause(self, service: str) -> Pauses | None:
        """What it pauses for at this moment."""
        return self._pauses.get(service)

    def is_silent(self, service: str) -> bool:
        """Its relay has not been heard lately."""
        status = self.status(service)
        return status is None or clock.now() - status.at > SILENT_AFTER


def look_at_queue(service: str) -> Waiting | None:
    """A service's queue on the broker, if it is there. Nothing is known of it where the broker can't be reached."""
    unknown = Waiting(0, 1)
    if instead() is not None:
        return unknown
    with connect() as connection:
        try:
            reach(connection)
            return topology.look_at(connection, topology.inbox_queue(service))
        except broker_errors(connection):
            return unknown


def explain(mark: MarkOfFlow, state: FlowState, around: Surroundings) -> None:
    """Add to a mark why, and what to do."""
    service = mark.culprit
    if not service:
        mark.remedy = "look at the flow: its last reaction may have forgotten to announce"
        return
    if mark.kind == Flow.Mark.DIFFERENT:
        mark.remedy = f"compare the flow with the rows of {service}: an event was lost, or a row was changed by hand"
        return
    why, mark.remedy = _why(service, state, around)
    mark.what = f"{mark.what}: {why}"[:400]


def _why(service: str, state: FlowState, around: Surroundings) -> tuple[str, str]:
    queue, of_service = around.queue(service), f" {service}."
    if queue is None:
        return f"the queue of {service} is missing", "run manage.py declare_topology"
    if pause := around.pause(service):
        return f"{service} pauses: {pause}", f"see to it: {service} goes on by itself when it answers"
    if queue.consumers == 0:
        return (
            f"no worker of {service} takes messages, and {queue.messages} wait",
            f"start it, or see whether its database is down: celery -A shop worker -Q {service}",
        )
    if around.is_silent(service):
        return f"the relay of {service} does not run", f"start it: manage.py relay {service}"
    status = around.status(service)
    if status is not None and status.oldest is not None and clock.now() - status.oldest > SILENT_AFTER:
        return (
            f"{status.outbox} event(s) wait in the outbox of {service}",
            f"look at the log of manage.py relay {service}",
        )
    if any(of_service in f" {key.partition(' ')[2]}" for key in state.parked.values()):
        return f"a delivery to {service} is parked", f"mend it and send it again: dead letters of {service}"
    waits = [key for key in state.open if of_service in f" {key.partition(' ')[2]}"]
    if not waits:
        return f"{service} has reacted and not announced it", f"look at the reactions of {service}"
    if queue.messages:
        return f"{queue.messages} message(s) wait in the queue of {service}", f"start another worker of {service}"
    if status is not None and status.retries:
        return f"{service} tries again", f"look at the outcomes on the flow's page, and at what {service} calls"
    return (
        f"the message did not reach {service}: its queue was purged or is not bound",
        f"run manage.py choreography doctor, then manage.py choreography send_again {service}",
    )
