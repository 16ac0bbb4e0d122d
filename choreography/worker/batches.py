"""What Celery takes for one message: deliveries to one reaction that are handled together."""

from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, Any, ClassVar
from uuid import NAMESPACE_URL, uuid4, uuid5

from choreography.broker import topology
from choreography.core.errors import Unusable
from choreography.inbox.deliveries import Delivery
from choreography.worker.acknowledgements import Acknowledgements
from choreography.worker.batched_messages import acknowledgement_of

if TYPE_CHECKING:
    from choreography.worker.consumer import EventConsumer

#: So many events of a batch are named where people look.
_NAMED = 3


class Batch:
    """A Celery message whose one argument is a list of deliveries."""

    properties: ClassVar[dict[str, Any]] = {}
    #: The body goes to the pool as it is, with nothing to decode.
    content_type = content_encoding = None

    def __init__(
        self, deliveries: Sequence[Delivery], consumer: "EventConsumer", acknowledgements: Acknowledgements
    ) -> None:
        self.deliveries = deliveries
        self.consumer = consumer
        self.acknowledgements = acknowledgements
        #: To be handled again, by the same worker.
        self.again: Sequence[Delivery] = ()
        self._is_released = False
        first, is_single = deliveries[0], len(deliveries) == 1
        for delivery in deliveries:
            delivery.when_committed = consumer.free
        task_id = task_id_of(first) if is_single else str(uuid4())
        self.delivery_info = first.message.delivery_info
        self.headers = {
            "task": first.task,
            "id": task_id,
            "root_id": task_id,
            "parent_id": None,
            "group": None,
            "retries": first.history.attempts + first.history.waits if is_single else 0,
            "argsrepr": _summary(deliveries),
            "kwargsrepr": "{}",
        }
        embedded = {"callbacks": None, "errbacks": None, "chain": None, "chord": None}
        self.body: Any = ([list(deliveries)], {}, embedded)
        self.payload: Any = self.body

    def handle_again(self, indexes: Collection[int], alone: Collection[int]) -> None:
        """Don't acknowledge the deliveries at these indexes: they are to be handled again, some of them alone."""
        for index in alone:
            self.deliveries[index].alone = True
        self.again = [self.deliveries[index] for index in sorted(indexes)]

    def handle_again_as_suspects(self) -> None:
        """One of them may have ended the process it was handled in."""
        for delivery in self.deliveries:
            delivery.exclusive = True
        self.handle_again(range(len(self.deliveries)), alone=())

    def release(self) -> None:
        """It has been handled: there is room for another. Does nothing the second time. On any thread."""
        if not self._is_released:
            self._is_released = True
            self.consumer.release(self)

    def ack_log_error(self, logger: Any, errors: Any, multiple: bool = False) -> None:
        self._tell_broker(None, logger, errors)

    def reject_log_error(self, logger: Any, errors: Any, requeue: bool = False) -> None:
        self._tell_broker(requeue, logger, errors)

    def _tell_broker(self, rejected: bool | None, logger: Any, errors: Any) -> None:
        due = [acknowledgement_of(delivery.message, rejected) for delivery in self._handled()]
        handled = [it.message for it in due if it and it.rejected is None]
        if handled:
            self.acknowledgements.ack(handled, logger, errors)
        for it in due:
            if it and it.rejected is not None:
                it.message.reject_log_error(logger, errors, it.rejected)

    def _handled(self) -> list[Delivery]:
        again = set(map(id, self.again))
        return [delivery for delivery in self.deliveries if id(delivery) not in again]


def task_id_of(delivery: Delivery) -> str:
    """Every service gets the same event: an id of its own keeps them apart in Flower and in revocations."""
    queue = topology.dead_queue_name if delivery.given_up else topology.queue_name
    return str(uuid5(NAMESPACE_URL, f"{queue(delivery.service)}:{delivery.identity}"))


def _summary(deliveries: Sequence[Delivery]) -> str:
    """What people see of a task."""
    named = ", ".join(map(_name, deliveries[:_NAMED]))
    more = f" and {len(deliveries) - _NAMED} more" if len(deliveries) > _NAMED else ""
    return f"{len(deliveries)} events: {named}{more}" if len(deliveries) > 1 else named


def _name(delivery: Delivery) -> str:
    try:
        envelope = delivery.envelope
    except Unusable:
        return "unreadable message"
    return f"{envelope.type} {envelope.id} of {envelope.subject}"
