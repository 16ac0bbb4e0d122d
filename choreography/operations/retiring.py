"""Whether an old version of an event may go: who still reads it, and where it still waits."""

from collections.abc import Iterator, Sequence

from choreography.broker import topology
from choreography.broker.publisher import broker_errors, connect, diagnose, reach
from choreography.core.conf import conf
from choreography.core.errors import ContractError
from choreography.events.compatibility import committed
from choreography.events.messages import family_of, parse_type, published
from choreography.events.readers import all_readers, hears_a_newer_version
from choreography.events.registry import reactions
from choreography.storage.tables import ServiceTables

#: Rows of a ladder's records that are looked through, at most.
_MOST = 10_000


def obstacles(event_type: str, sources: Sequence[str] = ()) -> Iterator[str]:
    """What stands in the way of announcing it no more, a line each. Only what this process reaches is looked at.

    Args:
        sources: more readers, as ``events.readers.all_readers`` takes them.

    Raises:
        ContractError: there is no such event type, or a source can't be read.
    """
    parse_type(event_type)
    if event_type not in published and committed(event_type) is None:
        raise ContractError(f"{event_type} is not announced here, and has no committed contract")
    readers = all_readers(sources)
    for reader in readers:
        if reader.event_type == event_type and reader.is_subscribed and not hears_a_newer_version(reader, readers):
            yield f"{reader.reaction} reads it: have it read a newer version, and name both while that is rolled out"
    announcer = parse_type(event_type).service
    if announcer in conf().services:
        waiting = ServiceTables(announcer).outbox.filter(event_type=event_type, published_at=None, refusal="").count()
        if waiting:
            yield f"{waiting} wait in the outbox of {announcer}: see that its relay runs"
    for service in conf().services:
        tables = ServiceTables(service)
        parked = tables.dead_letters.filter(event_type=event_type, state="parked").count()
        if parked:
            yield f"{parked} are parked at {service}: mend them and send them again, or discard them"
        retries = sum(_is_of(event_type, bytes(body)) for body in tables.retries.values_list("body", flat=True)[:_MOST])
        if retries:
            yield f"{retries} are on the retry ladder of {service}: wait until they have come back"
    yield from _queued(event_type)


def _queued(event_type: str) -> Iterator[str]:
    """Messages in the queues of those who hear any version of the event. Which they are, the broker does not tell."""
    family = family_of(event_type)
    hearing = {each.service for each in reactions() if any(family_of(it) == family for it in each.event_types)}
    with connect() as connection:
        try:
            reach(connection)
        except broker_errors(connection) as error:
            what, remedy = diagnose(error)
            yield f"the broker {what}, so what waits in its queues is not known: {remedy}"
            return
        for service in sorted(hearing):
            ticks = topology.timer_queue(service).name
            queues = [queue for queue in topology.queues(service) if queue.name != ticks]
            waiting = sum(found.messages for queue in queues if (found := topology.look_at(connection, queue)))
            if waiting:
                yield f"{waiting} messages wait in the queues of {service} and may be of it: wait until there are none"


def _is_of(event_type: str, body: bytes) -> bool:
    return f'"{event_type}"'.encode() in body
