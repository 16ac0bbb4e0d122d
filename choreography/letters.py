"""Send a dead letter again: the message as it came, straight to its service's own queue.

What becomes of it then is told by ``delivery``: the letter is resolved in the transaction in which the reaction
takes effect, or parked again with the new error.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import structlog
from django.utils.translation import gettext_lazy as _

from choreography import topology
from choreography.delivery import ATTEMPTS, FIRST_SEEN, LETTER, NOTES_OF_THE_BROKER, WAITS
from choreography.errors import ChoreographyError
from choreography.models import DeadLetter, alias_of, transaction_of
from choreography.publishing import BrokerPublisher, Outgoing, Publisher
from choreography.relay import declare_topology

log = structlog.get_logger(__name__)


class NotParked(ChoreographyError):
    """The letter was sent again already, or has done its work."""


def send_again(letter: DeadLetter, publisher: Publisher | None = None) -> None:
    """Put a parked letter's message back into its service's queue.

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
            return send_again(letter, publisher)
    with transaction_of(service):
        held = type(letter)._default_manager.using(alias_of(service)).select_for_update().get(pk=letter.pk)
        if held.state != DeadLetter.State.PARKED:
            raise NotParked(
                _("%(letter)s is not parked but %(state)s.")
                % {"letter": held, "state": DeadLetter.State(held.state).label}
            )
        held.state = DeadLetter.State.RETRYING
        held.save(update_fields=["state"])
        publisher.publish([_message(held)])
    log.info("dead letter sent again", service=service, letter=held.pk, reaction=held.reaction)
    return None


@contextmanager
def to_the_broker(service: str) -> Iterator[Publisher]:
    """A publisher for several letters of one service, with the service's queue sure to be there.

    RabbitMQ drops, and confirms, what is published to a queue that does not exist.

    Raises:
        Transient: the broker can't be reached.
    """
    declare_topology(service)
    publisher = BrokerPublisher()
    try:
        yield publisher
    finally:
        publisher.close()


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
    return {
        name: value
        for name, value in headers.items()
        if name not in (ATTEMPTS, WAITS, FIRST_SEEN) and not name.startswith(NOTES_OF_THE_BROKER)
    }
