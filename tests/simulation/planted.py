"""Bugs on purpose. A checker that can't fail proves nothing: each of these must be found, by a named invariant.

Each replaces one protection of the product for the time it is planted.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from typing import Any
from unittest.mock import patch
from uuid import UUID

from django.db import transaction

from choreography import delivery, outbox, relay, retries, testing, topology, world
from choreography.conf import conf
from choreography.delivery import Done
from choreography.errors import Conflict, NotYet, Outage, PublishFailed
from choreography.models import alias_of, table_of
from choreography.outbox import caused_by
from choreography.publishing import Outgoing
from orders import services as orders
from payments import services as payments
from payments.models import Payment
from shipping import services as shipping
from shipping.events import ShipmentCancelled
from shipping.models import Shipment

Plant = Callable[[], Iterator[None]]


def _no_inbox() -> Iterator[None]:
    """A delivery takes effect as often as it comes."""

    def commit(mail: Any, reaction: Any, event: Any, history: Any, *answer: Any) -> Done:
        with transaction.atomic(using=alias_of(reaction.service)), caused_by(reaction, event):
            table_of(reaction.service, "Inbox").objects.using(alias_of(reaction.service)).get_or_create(
                event_id=event.id,
                reaction=reaction.name,
                defaults={"event_type": event.type, "subject": event.subject},
            )
            reaction.function(event, *answer)
        return Done()

    with patch.object(delivery, "_commit", commit):
        yield


def _no_claim() -> Iterator[None]:
    """Two copies of a delivery ask the outside world at once."""
    with patch.object(delivery, "claimed", lambda *_: nullcontext()):
        yield


def _acknowledge_early() -> Iterator[None]:
    """A worker that dies before its commit takes the message with it."""
    handle_message = testing.Choreography.handle

    def handle(self: Any, service: str, message: Any) -> Any:
        self.broker.ack(message.tag)
        return handle_message(self, service, message)

    with patch.object(testing.Choreography, "handle", handle):
        yield


def _mark_before_publish() -> Iterator[None]:
    """The relay marks events as published before the broker has confirmed them."""

    def move(service: str, publisher: Any, limit: int | None = None) -> int:
        waiting = table_of(service, "Outbox").objects.using(alias_of(service)).filter(published_at=None)
        rows = list(
            waiting.order_by("position").values("position", "event_id", "event_type", "subject", "body")[
                : limit or conf().relay_batch
            ]
        )
        waiting.filter(position__in=[row["position"] for row in rows]).update(published_at=world.now())
        publisher.publish([relay._outgoing(row) for row in rows])
        return len(rows)

    with patch.object(testing, "move", move):
        yield


def _publish_before_commit() -> Iterator[None]:
    """An event goes out whether or not its change is committed."""
    published: list[Any] = []
    announce, relay_events = outbox.announce, testing.Choreography.relay

    def announce_at_once(fact: Any, *, subject: UUID) -> Any:
        event = announce(fact, subject=subject)
        body = event.to_json().encode()
        published.append(Outgoing(body, topology.exchange_name(event.type), message_id=str(event.id)))
        return event

    def relay_those_too(self: Any, service: str) -> int:
        early = list(published)
        published.clear()
        self.publish(early)
        return relay_events(self, service)

    with (
        patch.object(orders, "announce", announce_at_once),
        patch.object(payments, "announce", announce_at_once),
        patch.object(shipping, "announce", announce_at_once),
        patch.object(testing.Choreography, "relay", relay_those_too),
    ):
        yield


def _new_key_for_each_call() -> Iterator[None]:
    """The provider can't tell that it was asked before."""
    with patch.object(payments, "_key", lambda order_id, operation: f"{order_id}:{operation}:{world.new_id().hex}"):
        yield


def _key_without_order() -> Iterator[None]:
    """Two orders share an idempotency key."""
    with patch.object(payments, "_key", lambda order_id, operation: f"{UUID(int=1)}:{operation}"):
        yield


def _forget_not_yet() -> Iterator[None]:
    """A parcel is not sent because its address has not arrived yet."""
    ask_to_book = shipping.ask_to_book

    def ask(order_id: UUID) -> Any:
        try:
            return ask_to_book(order_id)
        except NotYet:
            return None

    with patch.object(shipping, "ask_to_book", ask):
        yield


def _drop_conflict() -> Iterator[None]:
    """What came of an outside call is dropped when the ledger has changed meanwhile."""
    recorders = {name: getattr(payments, name) for name in ("record_authorization", "record_capture", "record_release")}

    def dropping(record: Callable[..., None]) -> Callable[..., None]:
        def record_or_drop(*arguments: Any) -> None:
            try:
                record(*arguments)
            except Conflict:
                return

        return record_or_drop

    with ExitStack() as stack:
        for name, record in recorders.items():
            stack.enter_context(patch.object(payments, name, dropping(record)))
        yield


def _cancel_while_dispatching() -> Iterator[None]:
    """Shipping grants a cancellation while the carrier is being asked."""
    cancel_shipment = shipping.cancel_shipment

    def cancel(order_id: UUID, reason: str) -> None:
        shipment = Shipment.objects.locked(order_id)
        if shipment.state != Shipment.State.DISPATCHING:
            return cancel_shipment(order_id, reason)
        shipment.end(Shipment.State.CANCELLED, reason)
        shipment.save()
        outbox.announce(ShipmentCancelled(reason=reason), subject=order_id)
        return None

    with patch.object(shipping, "cancel_shipment", cancel):
        yield


def _forget_the_cancellation() -> Iterator[None]:
    """An order cancelled before payments could authorize it is authorized all the same."""
    record_release = payments.record_release

    def record(order_id: UUID, answer: Any) -> None:
        record_release(order_id, answer)
        Payment.objects.filter(pk=order_id).update(order_cancelled=False)

    with patch.object(payments, "record_release", record):
        yield


def _park_outages() -> Iterator[None]:
    """What is down uses up attempts."""
    decide = retries.decide

    def impatient(error: Exception, history: Any, *rest: Any) -> Any:
        if issubclass(retries.classify(error), Outage) and history.waits >= 2:
            return retries.Park(history.attempts)
        return decide(error, history, *rest)

    with patch.object(delivery, "decide", impatient):
        yield


def _lose_retries() -> Iterator[None]:
    """A delivery is acknowledged although the ladder has not confirmed it."""

    def put_on_ladder(self: Any, message: Outgoing) -> None:
        with suppress(PublishFailed):
            self.publish([message])

    with (
        patch.object(testing.Choreography, "put_on_ladder", put_on_ladder),
        patch("choreography.delivery._note_retry", lambda *_: None),
    ):
        yield


def _purge_what_waits() -> Iterator[None]:
    """Old events go, published or not."""

    def by_age_alone(service: str) -> int:
        rows = table_of(service, "Outbox").objects.using(alias_of(service))
        return int(rows.filter(announced_at__lt=world.now() - conf().keep_outbox).delete()[0])

    with ExitStack() as stack:
        for service in conf().services:
            stack.enter_context(patch(f"{service}.timers.purge", by_age_alone))
        yield


PLANTS: dict[str, Plant] = {
    "no_inbox": _no_inbox,
    "no_claim": _no_claim,
    "acknowledge_early": _acknowledge_early,
    "mark_before_publish": _mark_before_publish,
    "publish_before_commit": _publish_before_commit,
    "new_key_for_each_call": _new_key_for_each_call,
    "key_without_order": _key_without_order,
    "forget_not_yet": _forget_not_yet,
    "drop_conflict": _drop_conflict,
    "cancel_while_dispatching": _cancel_while_dispatching,
    "forget_the_cancellation": _forget_the_cancellation,
    "park_outages": _park_outages,
    "lose_retries": _lose_retries,
    "purge_what_waits": _purge_what_waits,
}


@contextmanager
def planted(name: str) -> Iterator[None]:
    """One of the bugs, as long as the block lasts.

    Raises:
        KeyError: there is none of this name.
    """
    yield from PLANTS[name]()
