"""Events that were published and that a service has not heard: its queue was purged, deleted or not bound meanwhile.

The outbox says what was published, the inbox of each service what it has heard. What is in the one and not in the
other, neither parked nor on the retry ladder, is sent again to that one service; so are dead letters that a person sent
again and that have no outcome. The inbox keeps what was only late from taking effect twice. Only services whose
databases this process reaches can be compared.
"""

from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta
from uuid import UUID

from django.db.models.functions import Coalesce

from choreography.broker import topology
from choreography.broker.publisher import Outgoing, Publisher
from choreography.core import clock
from choreography.core.conf import conf
from choreography.dead_letters.actions import message_of
from choreography.events.messages import parse_type
from choreography.events.registry import Reaction, reactions
from choreography.inbox.deliveries import Delivery
from choreography.storage.models import DeadLetter
from choreography.storage.tables import ServiceTables

#: How far back to look. What is older has been looked at before.
SINCE = timedelta(days=1)
#: What was published more recently may still be on its way.
AFTER = timedelta(minutes=1)
#: What inboxes know an event by.
_FACT = Coalesce("fact_id", "event_id")
#: Events that are compared with one query of each table.
_BATCH = 1000


def unheard(service: str, since: timedelta = SINCE, after: timedelta = AFTER) -> Iterator[Outgoing]:
    """The events that a service should have heard and has not, as messages to its queue alone, the newest first.

    Args:
        since: how far back to look.
        after: how long ago an event must have been published.
    """
    now = clock.now()
    for reaction in reactions(service):
        for announcer in sorted({parse_type(event_type).service for event_type in reaction.event_types}):
            if announcer in conf().services:
                yield from _compare(reaction, ServiceTables(announcer), now - since, now - after)
    retrying = ServiceTables(service).dead_letters.filter(state=DeadLetter.State.RETRYING)
    sent_again = retrying.filter(sent_at__gte=now - since, sent_at__lte=now - after)
    yield from _not_on_ladder(service, [message_of(dead_letter) for dead_letter in sent_again.order_by("-pk")])


def send(messages: Iterator[Outgoing], publisher: Publisher) -> int:
    """Publish them. Returns how many they were.

    Raises:
        Transient: the broker did not confirm; some may have been sent.
        PublishRefused: the broker will never take some of them.
    """
    found = [*messages]
    size = conf().relay_batch
    for start in range(0, len(found), size):
        publisher.publish(found[start : start + size])
    return len(found)


def _compare(reaction: Reaction, announcer: ServiceTables, since: datetime, until: datetime) -> Iterator[Outgoing]:
    first = _first_heard(reaction)
    announced = announcer.outbox.filter(event_type__in=reaction.event_types)
    last: int | None = None
    while True:
        older = announced if last is None else announced.filter(position__lt=last)
        rows = [*older.order_by("-position").values_list("position", _FACT, "announced_at", "published_at")[:_BATCH]]
        if not rows:
            return
        last = rows[-1][0]
        ids = [
            event_id
            for _, event_id, _, published_at in rows
            if published_at and since <= published_at <= until and (first is None or event_id >= first)
        ]
        missing = _missing(reaction, ids)
        if missing:
            of_facts = announced.alias(fact=_FACT).filter(fact__in=missing)
            yield from _not_on_ladder(
                reaction.service,
                [
                    Outgoing(
                        body=row.body.encode(),
                        exchange="",
                        routing_key=topology.queue_name(reaction.service),
                        message_id=str(row.event_id),
                    )
                    for row in of_facts.order_by("-position")
                ],
            )
        if rows[-1][2] < since:
            return


def _first_heard(reaction: Reaction) -> UUID | None:
    """A reaction that is new need not hear what was published before it existed. Ids of events rise with time."""
    heard = ServiceTables(reaction.service).inbox.filter(reaction=reaction.name).order_by("event_id")
    return heard.values_list("event_id", flat=True).first()


def _missing(reaction: Reaction, event_ids: Sequence[UUID]) -> set[UUID]:
    tables = ServiceTables(reaction.service)
    heard = tables.inbox.filter(reaction=reaction.name, event_id__in=event_ids)
    if heard.count() == len(event_ids):
        return set()
    parked = tables.dead_letters.filter(event_id__in=event_ids)
    known = {*heard.values_list("event_id", flat=True), *parked.values_list("event_id", flat=True)}
    return {*event_ids} - known


def _not_on_ladder(service: str, messages: Sequence[Outgoing]) -> Iterator[Outgoing]:
    """What was lost on the ladder once has been published to the queue since."""
    by_key = {Delivery(service, message.body, message.content_type).key: message for message in messages}
    on_ladder = ServiceTables(service).retries.filter(key__in=[*by_key], copies=0)
    waiting = {*on_ladder.values_list("key", flat=True)}
    yield from (message for key, message in by_key.items() if key not in waiting)
