"""Dramatiq on RabbitMQ and SQLAlchemy: each step is an actor that sends the next ones after its commit.

What it does not guarantee:

- a crash, or a broker that is down, between commit and ``send()`` loses the step: the order stops for ever, silently;
- placing an order fails with an error after the commit when the broker is down;
- an actor that runs twice takes effect twice (here the database's unique keys stop most of it, with an error);
- a message that fails for good lies in a dead-letter queue for seven days and is then gone.

Beyond the library's defaults it has quorum queues (which it has no option for) and publisher confirms.
"""

import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from uuid import UUID

import dramatiq
from dramatiq.brokers.rabbitmq import RabbitmqBroker
from sqlalchemy import create_engine, select
from sqlalchemy.orm import Session

from bench import external_systems, sample
from bench.peers.tables import Entry, Order, Payment, Shipment, new_order, new_payment, now


class QuorumBroker(RabbitmqBroker):
    def _build_queue_arguments(self, queue_name: str) -> dict[str, Any]:
        return {**super()._build_queue_arguments(queue_name), "x-queue-type": "quorum"}


dramatiq.set_broker(QuorumBroker(url=os.environ["BROKER_URL"], confirm_delivery=True))
engine = create_engine(
    os.environ["DATABASE_URL"].replace("postgres://", "postgresql+psycopg2://"),
    pool_size=int(os.environ.get("POOL_SIZE", "5")),
)


@contextmanager
def opened() -> Iterator[None]:
    yield


def place() -> UUID:
    with Session(engine, expire_on_commit=False) as session, session.begin():
        order = new_order()
        session.add(order)
    authorize_payment.send(str(order.id), order.payment_token, order.total, order.currency)
    plan_shipment.send(str(order.id), sample.SHIP_TO)
    order_id: UUID = order.id
    return order_id


@dramatiq.actor(queue_name="payments")
def authorize_payment(order_id: str, token: str, total: int, currency: str) -> None:
    key = f"{order_id}:authorize"
    reference = external_systems.authorize(key)
    with Session(engine) as session, session.begin():
        session.add(new_payment(UUID(order_id), total, currency, reference, key))
    record_authorization.send(order_id)
    dispatch_shipment.send(order_id)


@dramatiq.actor(queue_name="shipping")
def plan_shipment(order_id: str, ship_to: dict[str, str]) -> None:
    with Session(engine) as session, session.begin():
        session.add(Shipment(order_id=UUID(order_id), state="planned", **ship_to))


@dramatiq.actor(queue_name="shipping", min_backoff=100)
def dispatch_shipment(order_id: str) -> None:
    parcel = external_systems.book(order_id)
    with Session(engine) as session, session.begin():
        shipment = session.get_one(Shipment, UUID(order_id), with_for_update=True)
        shipment.state, shipment.parcel, shipment.dispatched_at = "dispatched", parcel, now()
    record_dispatch.send(order_id, parcel)
    capture_payment.send(order_id)


@dramatiq.actor(queue_name="payments")
def capture_payment(order_id: str) -> None:
    key = f"{order_id}:capture"
    with Session(engine) as session:
        external_systems.capture(key, session.get_one(Payment, UUID(order_id)).reference)
    with Session(engine) as session, session.begin():
        payment = session.get_one(Payment, UUID(order_id), with_for_update=True)
        payment.captured = payment.authorized
        session.add(Entry(payment_id=payment.order_id, kind="captured", amount=payment.captured, key=key))
    record_capture.send(order_id)


@dramatiq.actor(queue_name="shipping")
def track_parcels() -> None:
    with Session(engine) as session:
        query = select(Shipment.order_id, Shipment.parcel).where(Shipment.state == "dispatched")
        under_way = session.execute(query.order_by(Shipment.dispatched_at).limit(sample.PARCELS_AT_ONCE)).all()
    for order_id, parcel in under_way:
        if external_systems.is_delivered(parcel):
            _deliver(order_id)


def _deliver(order_id: UUID) -> None:
    with Session(engine) as session, session.begin():
        shipment = session.get_one(Shipment, order_id, with_for_update=True)
        if shipment.state != "dispatched":
            return
        shipment.state, shipment.ended_at = "delivered", now()
    record_delivery.send(str(order_id))


@dramatiq.actor(queue_name="orders")
def record_authorization(order_id: str) -> None:
    _record(order_id, authorized_at=now())


@dramatiq.actor(queue_name="orders")
def record_dispatch(order_id: str, parcel: str) -> None:
    _record(order_id, dispatched_at=now(), parcel=parcel)


@dramatiq.actor(queue_name="orders")
def record_capture(order_id: str) -> None:
    _record(order_id, captured_at=now())


@dramatiq.actor(queue_name="orders")
def record_delivery(order_id: str) -> None:
    _record(order_id, delivered_at=now())


def _record(order_id: str, **facts: Any) -> None:
    with Session(engine) as session, session.begin():
        order = session.get_one(Order, UUID(order_id), with_for_update=True)
        for name, value in facts.items():
            setattr(order, name, value)


def tick_for_ever() -> None:
    """Dramatiq has no scheduler of its own."""
    while True:
        track_parcels.send_with_options()
        time.sleep(float(os.environ["TRACK_PARCELS_SECONDS"]))


if __name__ == "__main__" and sys.argv[1:] == ["clock"]:
    tick_for_ever()
