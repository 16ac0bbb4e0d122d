"""Protections, each of which can be switched off for a run. A checker that can't fail proves nothing.

The product code has no hooks for this: what stands here replaces parts of it in a running process, or in its databases.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from tests.processes import SERVICES


@dataclass(frozen=True)
class Sabotage:
    """One protection switched off."""

    caught_by: frozenset[str]
    """Invariants of which at least one breaks."""
    faults: tuple[str, ...]
    """The kinds of faults it protects from."""
    in_process: Callable[[], None] = lambda: None
    """Called in every process of the shop, once Django is ready."""
    in_databases: Sequence[tuple[str, str]] = ()
    """(service, SQL) for the services' databases."""


def _enter_without_looking() -> None:
    """Every delivery goes into the inbox. What it was to be recognised by, a constraint, is gone from the databases."""
    from choreography.inbox import unit_of_work
    from choreography.storage.bulk import insert_all

    def insert(rows: Any, by: Sequence[str], using: str) -> Any:
        insert_all(rows, using)
        return rows

    unit_of_work.insert_new = insert  # type: ignore[attr-defined]


def _publish_before_commit() -> None:
    """Events go out as soon as they are announced, whatever becomes of the transaction."""
    from django.db.models.signals import post_save

    from choreography.broker.publisher import BrokerPublisher, Outgoing
    from choreography.broker.topology import exchange_name
    from choreography.core import clock
    from choreography.storage.tables import ServiceTables

    def publish_now(instance: Any, created: bool, **_: Any) -> None:
        if created:
            publisher = BrokerPublisher()
            publisher.publish([Outgoing(instance.body.encode(), exchange_name(instance.event_type))])
            publisher.close()
            type(instance).objects.filter(pk=instance.pk).update(published_at=clock.now())

    for service in _services():
        post_save.connect(publish_now, sender=ServiceTables(service).outbox.model, weak=False)


def _take_publishing_for_confirmed() -> None:
    from choreography.broker.publisher import BrokerPublisher

    def do_not_wait(self: BrokerPublisher, connection: Any) -> None:
        self._unconfirmed.clear()

    BrokerPublisher._await_confirms = do_not_wait  # type: ignore[method-assign]


def _acknowledge_first() -> None:
    from choreography.worker.tasks import DeliveryTask

    DeliveryTask.acks_late = False


def _ask_under_a_new_key_each_time() -> None:
    from uuid import uuid4

    from payments import services

    lasting = services._key
    services._key = lambda *about: f"{lasting(*about)}:{uuid4()}"


def _grant_cancellations_while_the_carrier_is_asked() -> None:
    from shipping.models import Shipment

    # What is being handed over counts as waiting; nothing is recorded for later.
    def is_waiting(self: Shipment) -> bool:
        return self.state in (self.State.UNKNOWN, self.State.PLANNED, self.State.DISPATCHING)

    from choreography.outbox.announcing import announce
    from shipping import services
    from shipping.events import CancellationRefused, ShipmentCancelled

    def cancel_shipment(shipment: Shipment, reason: str) -> None:
        if is_waiting(shipment):
            shipment.end(Shipment.State.CANCELLED, reason)
        if shipment.state == Shipment.State.CANCELLED:
            announce(ShipmentCancelled(reason=reason), subject=shipment.order_id)
        else:
            announce(CancellationRefused(reason=shipment.state), subject=shipment.order_id)

    services.cancel_shipment = cancel_shipment


def _services() -> tuple[str, ...]:
    from choreography.core.conf import conf

    return conf().services


SABOTAGES = {
    "inbox": Sabotage(
        caught_by=frozenset({"each_effect_happens_once"}),
        faults=("deliveries_repeated",),
        in_process=_enter_without_looking,
        in_databases=[
            (service, f"ALTER TABLE {service}_inbox DROP CONSTRAINT {service}_inbox_once_per_reaction")
            for service in SERVICES
        ],
    ),
    "outbox": Sabotage(
        caught_by=frozenset({"only_committed_events_are_heard"}),
        faults=("commits_refused",),
        in_process=_publish_before_commit,
    ),
    "confirms": Sabotage(
        caught_by=frozenset({"every_event_is_heard"}),
        faults=("broker_connections_stalled",),
        in_process=_take_publishing_for_confirmed,
    ),
    "ack_early": Sabotage(
        caught_by=frozenset({"every_event_is_heard"}),
        faults=("worker_killed_while_asking",),
        in_process=_acknowledge_first,
    ),
    "idempotency_key": Sabotage(
        caught_by=frozenset({"nobody_is_charged_twice"}),
        faults=("worker_killed_while_asking",),
        in_process=_ask_under_a_new_key_each_time,
    ),
    "lock": Sabotage(
        caught_by=frozenset({"never_cancelled_and_shipped"}),
        faults=(),
        in_process=_grant_cancellations_while_the_carrier_is_asked,
    ),
}
