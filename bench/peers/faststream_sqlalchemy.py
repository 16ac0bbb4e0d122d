"""FastStream on RabbitMQ and SQLAlchemy's asyncio (asyncpg): each step hears an event and publishes the next.

With ``OUTBOX=1`` it is FastStream with faststream-outbox: each step writes the next event into an outbox, in its
transaction, and a relay per service publishes it. What follows about lost events is true without it.

What it does not guarantee:

- a crash, or a broker that is down, between commit and ``publish()`` loses the event: the order stops for ever,
  silently;
- placing an order fails with an error after the commit when the broker is down;
- an event delivered twice takes effect twice (here the database's unique keys stop most of it, with an error);
- an event that always fails is handed to the same service again and again, without a pause or an end.

Beyond the library's defaults it has quorum queues, persistent messages and failed messages put back. ``CONCURRENCY`` is
how many events a process handles at a time, and how many connections to the database it keeps.
"""

import asyncio
import os
import sys
import threading
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any, TypeVar
from uuid import UUID

from faststream import AckPolicy, FastStream
from faststream.rabbit import Channel, ExchangeType, QueueType, RabbitBroker, RabbitExchange, RabbitQueue
from pydantic import BaseModel
from sqlalchemy import create_engine, select
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine

from bench import external_systems, sample
from bench.peers.tables import Entry, Order, Payment, Shipment, new_order, new_payment, now

#: Events a process handles at a time: as many as a worker of the others has threads.
CONCURRENCY = int(os.environ.get("CONCURRENCY", "4"))
HAS_OUTBOX = os.environ.get("OUTBOX") == "1"

broker = RabbitBroker(os.environ["BROKER_URL"], default_channel=Channel(prefetch_count=CONCURRENCY))
engine = create_async_engine(
    os.environ["DATABASE_URL"].replace("postgres://", "postgresql+asyncpg://"), pool_size=max(CONCURRENCY, 5)
)
events = RabbitExchange("events", type=ExchangeType.TOPIC, durable=True)
outbox: Any = None
if HAS_OUTBOX:
    from faststream_outbox import OutboxBroker, make_outbox_table
    from sqlalchemy import MetaData

    outbox_metadata = MetaData()
    outbox = OutboxBroker(engine, outbox_table=make_outbox_table(outbox_metadata, table_name="peer_outbox"))

T = TypeVar("T")


class OrderPlaced(BaseModel):
    order_id: UUID
    token: str
    total: int
    currency: str
    ship_to: dict[str, str]


class About(BaseModel):
    order_id: UUID
    parcel: str = ""


def hears(service: str, event: str) -> Callable[[Any], Any]:
    """Subscribe, in the process of that service only. One queue per handler."""
    if sys.argv[1:] != [service]:
        return lambda handler: handler
    queue = RabbitQueue(f"{service}.{event}", queue_type=QueueType.QUORUM, routing_key=event)
    subscribed: Callable[[Any], Any] = broker.subscriber(queue, events, ack_policy=AckPolicy.NACK_ON_ERROR)
    return subscribed


class Step:
    """A transaction, and what is announced when it is committed: into the outbox with it, if there is one."""

    def __init__(self, session: AsyncSession) -> None:
        self.session = session
        self.announced: list[tuple[str, BaseModel]] = []

    async def announce(self, event: str, message: BaseModel) -> None:
        if outbox is None:
            self.announced.append((event, message))
        else:
            body = {"event": event, "message": message.model_dump(mode="json")}
            await outbox.publish(body, queue=event.partition("_")[0], session=self.session)


@asynccontextmanager
async def step() -> AsyncIterator[Step]:
    async with AsyncSession(engine, expire_on_commit=False) as session:
        it = Step(session)
        async with session.begin():
            yield it
    for event, message in it.announced:
        await broker.publish(message, exchange=events, routing_key=event, persist=True, mandatory=False)


@hears("payments", "order_placed")
async def authorize_payment(event: OrderPlaced) -> None:
    key = f"{event.order_id}:authorize"
    reference = external_systems.authorize(key)
    async with step() as it:
        it.session.add(new_payment(event.order_id, event.total, event.currency, reference, key))
        await it.announce("payment_authorized", About(order_id=event.order_id))


@hears("shipping", "order_placed")
async def plan_shipment(event: OrderPlaced) -> None:
    async with AsyncSession(engine) as session, session.begin():
        session.add(Shipment(order_id=event.order_id, state="planned", **event.ship_to))


@hears("shipping", "payment_authorized")
async def dispatch_shipment(event: About) -> None:
    parcel = external_systems.book(str(event.order_id))
    async with step() as it:
        shipment = await it.session.get_one(Shipment, event.order_id, with_for_update=True)
        shipment.state, shipment.parcel, shipment.dispatched_at = "dispatched", parcel, now()
        await it.announce("shipment_dispatched", About(order_id=event.order_id, parcel=parcel))


@hears("payments", "shipment_dispatched")
async def capture_payment(event: About) -> None:
    key = f"{event.order_id}:capture"
    async with AsyncSession(engine) as session:
        external_systems.capture(key, (await session.get_one(Payment, event.order_id)).reference)
    async with step() as it:
        payment = await it.session.get_one(Payment, event.order_id, with_for_update=True)
        payment.captured = payment.authorized
        it.session.add(Entry(payment_id=payment.order_id, kind="captured", amount=payment.captured, key=key))
        await it.announce("payment_captured", About(order_id=event.order_id))


async def track_parcels() -> None:
    async with AsyncSession(engine) as session:
        query = select(Shipment.order_id, Shipment.parcel).where(Shipment.state == "dispatched")
        found = await session.execute(query.order_by(Shipment.dispatched_at).limit(sample.PARCELS_AT_ONCE))
        under_way = found.all()
    for order_id, parcel in under_way:
        if external_systems.is_delivered(parcel):
            async with step() as it:
                shipment = await it.session.get_one(Shipment, order_id, with_for_update=True)
                shipment.state, shipment.ended_at = "delivered", now()
                await it.announce("shipment_delivered", About(order_id=order_id, parcel=parcel))


@hears("orders", "payment_authorized")
async def record_authorization(event: About) -> None:
    await _record(event.order_id, authorized_at=now())


@hears("orders", "shipment_dispatched")
async def record_dispatch(event: About) -> None:
    await _record(event.order_id, dispatched_at=now(), parcel=event.parcel)


@hears("orders", "payment_captured")
async def record_capture(event: About) -> None:
    await _record(event.order_id, captured_at=now())


@hears("orders", "shipment_delivered")
async def record_delivery(event: About) -> None:
    await _record(event.order_id, delivered_at=now())


async def _record(order_id: UUID, **facts: Any) -> None:
    async with step() as it:
        order = await it.session.get_one(Order, order_id, with_for_update=True)
        for name, value in facts.items():
            setattr(order, name, value)
        await it.session.flush()
        if order.captured_at is not None and order.delivered_at is not None:
            await it.announce("order_completed", About(order_id=order_id))


# Running it


@asynccontextmanager
async def _lifespan() -> AsyncIterator[None]:
    ticking = asyncio.create_task(_tick_for_ever()) if sys.argv[1:] == ["shipping"] else None
    yield
    if ticking is not None:
        ticking.cancel()


async def _tick_for_ever() -> None:
    while True:
        await asyncio.sleep(float(os.environ["TRACK_PARCELS_SECONDS"]))
        await track_parcels()


_loop = asyncio.new_event_loop()


@contextmanager
def opened() -> Iterator[None]:
    threading.Thread(target=_loop.run_forever, daemon=True).start()
    _wait_for(broker.start())
    yield
    _wait_for(broker.stop())


def place() -> UUID:
    return _wait_for(_place())


def _wait_for(coroutine: Coroutine[Any, Any, T]) -> T:
    return asyncio.run_coroutine_threadsafe(coroutine, _loop).result()


async def _place() -> UUID:
    async with step() as it:
        order = new_order()
        it.session.add(order)
        await it.session.flush()
        await it.announce(
            "order_placed",
            OrderPlaced(
                order_id=order.id,
                token=order.payment_token,
                total=order.total,
                currency=order.currency,
                ship_to=sample.SHIP_TO,
            ),
        )
    order_id: UUID = order.id
    return order_id


async def _relay(service: str) -> None:
    """Publish what is in a service's outbox."""

    @outbox.subscriber(
        _FIRST_WORD[service], max_workers=16, fetch_batch_size=100, min_fetch_interval=0.02, max_fetch_interval=0.05
    )
    async def publish(body: dict[str, Any]) -> None:
        await broker.publish(body["message"], exchange=events, routing_key=body["event"], persist=True, mandatory=False)

    await broker.start()
    await FastStream(outbox).run()


#: Events are named after what they are about: by that word each service has its own queue in the outbox.
_FIRST_WORD = {"orders": "order", "payments": "payment", "shipping": "shipment"}


def prepare(url: str) -> None:
    """Make the outbox's table in an empty database."""
    made = create_engine(url.replace("postgres://", "postgresql+psycopg2://"))
    outbox_metadata.create_all(made)
    made.dispose()


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["prepare"]:
            prepare(os.environ["DATABASE_URL"])
        case ["relay", service]:
            asyncio.run(_relay(service))
        case _:
            asyncio.run(FastStream(broker, lifespan=_lifespan).run())
