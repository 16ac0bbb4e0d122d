"""Bugs on purpose. A checker that can't fail proves nothing: each of these must be found, by a named invariant.

Each replaces one protection of the product for the time it is planted.
"""

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from typing import Any
from unittest.mock import patch
from uuid import UUID

from choreography import testing
from choreography.broker import topology
from choreography.broker.publisher import Outgoing
from choreography.core import classification, clock
from choreography.core.conf import conf
from choreography.core.errors import Conflict, NotYet, Outage, PublishFailed
from choreography.inbox import handler, retry_policy, unit_of_work
from choreography.inbox.deliveries import Done, Unhandled
from choreography.inbox.handler import handle
from choreography.operations import maintenance
from choreography.outbox import announcing, relay
from choreography.outbox.announcing import transaction_of
from choreography.storage.bulk import insert_all
from choreography.storage.claims import claimed
from choreography.storage.retention import _in_batches
from choreography.storage.tables import ServiceTables
from payments import services as payments
from payments.models import Payment
from shipping import services as shipping
from shipping.events import ShipmentCancelled
from shipping.models import Shipment

Plant = Callable[[], Iterator[None]]


def _no_inbox() -> Iterator[None]:
    """A delivery takes effect as often as it comes."""

    commit = unit_of_work._commit

    def commit_again(reaction: Any, items: Sequence[Any], *answers: Any) -> Any:
        ids = [item.event.id for item in items]
        with transaction_of(reaction.service):
            inbox = ServiceTables(reaction.service).inbox
            inbox.filter(event_id__in=ids, reaction=reaction.name).delete()
            return commit(reaction, items, *answers)

    with patch.object(unit_of_work, "_commit", commit_again), patch.object(unit_of_work, "_handled", lambda *_: set()):
        yield


def _no_claim() -> Iterator[None]:
    """Two copies of a delivery call an external system at once."""
    names = itertools.count()

    @contextmanager
    def under_a_name_of_its_own(service: str, who: str, event_ids: Iterable[UUID]) -> Iterator[Any]:
        with claimed(service, f"{who}:{next(names)}", event_ids) as claims:
            yield claims

    with patch.object(unit_of_work, "claimed", under_a_name_of_its_own):
        yield


def _acknowledge_early() -> Iterator[None]:
    """A worker that dies before its commit takes the message with it."""
    handle_together = testing.Choreography.handle_together

    def handle(self: Any, service: str, messages: Sequence[Any]) -> Any:
        for message in messages:
            self.broker.ack(message.tag)
        return handle_together(self, service, messages)

    with patch.object(testing.Choreography, "handle_together", handle):
        yield


def _mark_before_publish() -> Iterator[None]:
    """The relay marks events as published before the broker has confirmed them."""

    def publish_waiting(service: str, publisher: Any, limit: int | None = None) -> int:
        tables = ServiceTables(service)
        events = relay._take(tables, limit or conf().relay_batch)
        if events:
            relay._mark_published(tables, events)
            relay._publish(events, publisher)
        return len(events)

    with patch.object(testing, "publish_waiting", publish_waiting):
        yield


def _publish_before_commit() -> Iterator[None]:
    """An event goes out whether or not its change is committed."""
    published: list[Any] = []
    relay_events = testing.Choreography.relay

    def insert_and_publish(rows: Sequence[Any], using: str) -> None:
        insert_all(rows, using)
        published.extend(Outgoing(row.body.encode(), topology.exchange_name(row.event_type)) for row in rows)

    def relay_those_too(self: Any, service: str) -> int:
        early = list(published)
        published.clear()
        self.publish(early)
        return relay_events(self, service)

    with (
        patch.object(announcing, "insert_all", insert_and_publish),
        patch.object(testing.Choreography, "relay", relay_those_too),
    ):
        yield


def _new_key_for_each_call() -> Iterator[None]:
    """The provider can't tell that it was asked before."""
    with patch.object(payments, "_key", lambda order_id, operation: f"{order_id}:{operation}:{clock.new_id().hex}"):
        yield


def _key_without_order() -> Iterator[None]:
    """Two orders share an idempotency key."""
    with patch.object(payments, "_key", lambda order_id, operation: f"{UUID(int=1)}:{operation}"):
        yield


def _forget_not_yet() -> Iterator[None]:
    """A parcel is not sent because its address has not arrived yet."""
    ask_to_book = shipping.ask_to_book

    def ask(shipment: Shipment) -> Any:
        try:
            return ask_to_book(shipment)
        except NotYet:
            return None

    with patch.object(shipping, "ask_to_book", ask):
        yield


def _drop_conflict() -> Iterator[None]:
    """What came of an external call is dropped when the ledger has changed meanwhile."""
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

    def cancel(shipment: Shipment, reason: str) -> None:
        if shipment.state != Shipment.State.DISPATCHING:
            return cancel_shipment(shipment, reason)
        shipment.end(Shipment.State.CANCELLED, reason)
        announcing.announce(ShipmentCancelled(reason=reason), subject=shipment.order_id)
        return None

    with patch.object(shipping, "cancel_shipment", cancel):
        yield


def _forget_the_cancellation() -> Iterator[None]:
    """An order cancelled before payments could authorize it is authorized all the same."""
    record_release = payments.record_release

    def record(payment: Payment, answer: Any) -> None:
        record_release(payment, answer)
        payment.order_cancelled = False

    with patch.object(payments, "record_release", record):
        yield


def _park_outages() -> Iterator[None]:
    """What is down uses up attempts."""
    decide = retry_policy.decide

    def impatient(error: Exception, history: Any, *rest: Any) -> Any:
        if issubclass(classification.classify(error), Outage) and history.waits >= 2:
            return retry_policy.Park(history.attempts)
        return decide(error, history, *rest)

    with patch.object(handler, "decide", impatient):
        yield


def _lose_retries() -> Iterator[None]:
    """A delivery is acknowledged although the ladder has not confirmed it."""

    def put_on_ladder(self: Any, messages: Sequence[Outgoing]) -> None:
        with suppress(PublishFailed):
            self.publish(messages)

    with (
        patch.object(testing.Choreography, "put_on_ladder", put_on_ladder),
        patch.object(handler, "record_retries", lambda *_: None),
    ):
        yield


def _purge_what_waits() -> Iterator[None]:
    """Old events go, published or not."""

    def by_age_alone(service: str) -> int:
        return _in_batches(service, "outbox", "announced_at", clock.now() - conf().keep_outbox)

    with patch.object(maintenance, "purge", by_age_alone):
        yield


def _batch_acknowledges_unhandled() -> Iterator[None]:
    """What a batch has not handled is acknowledged with the rest."""

    def handle_and_forget(deliveries: Sequence[Any]) -> list[Any]:
        return [Done() if isinstance(outcome, Unhandled) else outcome for outcome in handle(deliveries)]

    with patch.object(testing, "handle", handle_and_forget):
        yield


def _answers_swapped() -> Iterator[None]:
    """What was answered about one event of a batch is entered for another."""
    commit = unit_of_work._commit

    def commit_swapped(reaction: Any, items: Sequence[Any], answers: Any = None) -> Any:
        swapped = answers and dict(zip(answers, reversed(answers.values()), strict=True))
        return commit(reaction, items, swapped)

    with patch.object(unit_of_work, "_commit", commit_swapped):
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
    "batch_acknowledges_unhandled": _batch_acknowledges_unhandled,
    "answers_swapped": _answers_swapped,
}


@contextmanager
def planted(name: str) -> Iterator[None]:
    """One of the bugs, as long as the block lasts.

    Raises:
        KeyError: there is none of this name.
    """
    yield from PLANTS[name]()
