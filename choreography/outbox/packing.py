"""Which messages the events of an outbox go out in. Many that wait together share one, in CloudEvents' batch format.

A message costs the broker and every reader about the same, however many events it has. When one event waits, a message
has one event, in structured mode.
"""

from collections.abc import Sequence
from functools import cache
from typing import NamedTuple

from django.core.signals import setting_changed

from choreography.broker import topology
from choreography.broker.publisher import Outgoing
from choreography.core import clock
from choreography.core.conf import conf
from choreography.events.messages import BATCH_CONTENT_TYPE, CONTENT_TYPE, family_of
from choreography.events.readers import all_readers
from choreography.events.registry import reactions

#: Bytes of the events in a message, at most; one event may be larger.
_MOST_BYTES = 256 * 1024


class Row(NamedTuple):
    """What is read of an outbox row."""

    position: int
    id: str
    type: str
    subject: str
    body: str


class Packed(NamedTuple):
    """A message, and which of the events it holds."""

    message: Outgoing
    indexes: Sequence[int]


def pack(events: Sequence[Row]) -> list[Packed]:
    """Put events into messages, one event type in each, so that those of a subject arrive in their order.

    Versions of one fact may overtake one another: a reader hears one of them.
    """
    packages: list[list[int]] = []
    open_ones: dict[str, list[int]] = {}
    sizes: dict[str, int] = {}
    families: dict[str, str] = {}
    most, alone = conf().events_per_message, sent_alone()
    for index, event in enumerate(events):
        family = family_of(event.type)
        if families.get(event.subject, family) != family:
            open_ones, families = {}, {}  # what follows must not overtake what they hold
        families[event.subject] = family
        package = open_ones.get(event.type)
        size = len(event.body)
        if package is None or len(package) >= most or sizes[event.type] + size > _MOST_BYTES or event.type in alone:
            package = open_ones[event.type] = []
            sizes[event.type] = 0
            packages.append(package)
        package.append(index)
        sizes[event.type] += size
    known = {event_type for reaction in reactions() for event_type in reaction.event_types}
    now = clock.now().isoformat()
    return [Packed(_message([events[index] for index in package], known, now), package) for package in packages]


@cache
def sent_alone() -> frozenset[str]:
    """The event types of which each event has a message of its own: a reader has said that it does not take batches.

    Raises:
        ContractError: a file of readers can't be read.
    """
    readers = {reader.event_type for reader in all_readers() if not reader.takes_batches}
    return frozenset(readers.union(conf().sent_alone))


def _message(events: Sequence[Row], known: set[str], now: str) -> Outgoing:
    # Subscribers this process does not know may exist or not. Those it knows must: else a lost queue or binding would
    # lose the event.
    first, is_single = events[0], len(events) == 1
    body = first.body if is_single else "[" + ",\n".join(event.body for event in events) + "]"
    return Outgoing(
        body=body.encode(),
        exchange=topology.exchange_name(first.type),
        content_type=CONTENT_TYPE if is_single else BATCH_CONTENT_TYPE,
        message_id=first.id if is_single else None,
        headers={topology.PUBLISHED: now},
        mandatory=first.type in known,
    )


# Only tests change settings while running.
setting_changed.connect(lambda **_: sent_alone.cache_clear(), weak=False)
