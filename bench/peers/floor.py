"""The floor: what an outbox, an inbox and confirms cost with nothing around them. psycopg2 and py-amqp, no more.

A worker and a relay per service, like the shop. A worker takes what waits, ``BATCH`` deliveries at most, and handles
them in one transaction: inbox, changes, outbox. Then it acknowledges them all at once. The relay takes what waits in
the outbox, 500 rows at most, publishes it pipelined, and removes it once everything is confirmed.

What it does not guarantee: it loses nothing and does nothing twice, but an event that fails stops its whole service.
There is no retry, no parking, no schema, no reconnection, no log, nothing to look at.
"""

import json
import os
import select
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import psycopg2.extras
from psycopg2.extras import execute_values

from bench import external_systems, sample
from bench.pipeline import Pipeline, connect

Event = dict[str, Any]
"""``type``, ``id`` and ``order`` (both texts), ``data``."""

BATCH = int(os.environ.get("BATCH", "1"))
RELAYED_AT_ONCE = 500
TICK = float(os.environ.get("TRACK_PARCELS_SECONDS", "1"))

#: In the order of an order's life: within a batch an earlier step is taken first.
HEARS = {
    "orders": ("payment_authorized", "shipment_dispatched", "shipment_delivered", "payment_captured"),
    "payments": ("order_placed", "shipment_dispatched"),
    "shipping": ("order_placed", "payment_authorized"),
}
ANNOUNCES = {
    "orders": ("order_placed", "order_completed"),
    "payments": ("payment_authorized", "payment_captured"),
    "shipping": ("shipment_dispatched", "shipment_delivered"),
}


# What the services do about what they hear: many events of one type at a time


def new_event(event_type: str, order: str, **data: Any) -> Event:
    return {"type": event_type, "id": str(sample.new_id()), "order": order, "data": data}


def authorize(sql: Any, events: Sequence[Event]) -> list[Event]:
    keys = {event["order"]: f"{event['order']}:authorize" for event in events}
    references = {order: external_systems.authorize(key) for order, key in keys.items()}
    rows = [
        (event["order"], event["data"]["currency"], *[event["data"]["total"]] * 2, references[event["order"]])
        for event in events
    ]
    execute_values(
        sql,
        "INSERT INTO payments_payment (order_id, currency, asked, authorized, reference, captured, voided, refunded,"
        " declined, capture_refused, order_cancelled, authorized_at, created_at) VALUES %s",
        rows, template="(%s,%s,%s,%s,%s,0,0,0,'','',false,now(),now())",
    )  # fmt: skip
    _enter(sql, [(event["order"], "authorized", event["data"]["total"], keys[event["order"]]) for event in events])
    return [new_event("payment_authorized", event["order"], amount=event["data"]["total"]) for event in events]


def plan(sql: Any, events: Sequence[Event]) -> list[Event]:
    columns = tuple(sample.SHIP_TO)
    execute_values(
        sql,
        f"INSERT INTO shipping_shipment (order_id, {', '.join(columns)}, state, parcel, reason, created_at) VALUES %s",
        [(event["order"], *(event["data"]["ship_to"][column] for column in columns)) for event in events],
        template="(%s,%s,%s,%s,%s,%s,'planned','','',now())",
    )
    return []


def dispatch(sql: Any, events: Sequence[Event]) -> list[Event]:
    parcels = {event["order"]: external_systems.book(event["order"]) for event in events}
    execute_values(
        sql,
        "UPDATE shipping_shipment SET state = 'dispatched', parcel = v.parcel, dispatched_at = now()"
        " FROM (VALUES %s) v (id, parcel) WHERE order_id = v.id::uuid",
        list(parcels.items()),
    )
    assert sql.rowcount == len(parcels), "dispatched before it was planned"
    return [new_event("shipment_dispatched", order, parcel=parcel) for order, parcel in parcels.items()]


def capture(sql: Any, events: Sequence[Event]) -> list[Event]:
    sql.execute(
        "SELECT order_id::text, reference, authorized FROM payments_payment WHERE order_id = ANY(%s::uuid[])",
        ([event["order"] for event in events],),
    )
    held = sql.fetchall()
    for order, reference, _ in held:
        external_systems.capture(f"{order}:capture", reference)
    execute_values(
        sql,
        "UPDATE payments_payment SET captured = v.amount FROM (VALUES %s) v (id, amount) WHERE order_id = v.id::uuid",
        [(order, amount) for order, _, amount in held],
    )
    _enter(sql, [(order, "captured", amount, f"{order}:capture") for order, _, amount in held])
    return [new_event("payment_captured", order, amount=amount) for order, _, amount in held]


def _enter(sql: Any, entries: Sequence[tuple[Any, ...]]) -> None:
    execute_values(
        sql,
        "INSERT INTO payments_entry (payment_id, kind, amount, key, entered_at) VALUES %s",
        entries, template="(%s,%s,%s,%s,now())",
    )  # fmt: skip


def track(sql: Any) -> list[Event]:
    """Not because of an event but because time has passed."""
    sql.execute(
        "SELECT order_id::text, parcel FROM shipping_shipment WHERE state = 'dispatched'"
        " ORDER BY dispatched_at LIMIT %s FOR UPDATE SKIP LOCKED",
        (BATCH,),
    )
    delivered = [(order, parcel) for order, parcel in sql.fetchall() if external_systems.is_delivered(parcel)]
    if delivered:
        sql.execute(
            "UPDATE shipping_shipment SET state = 'delivered', ended_at = now() WHERE order_id = ANY(%s::uuid[])",
            ([order for order, _ in delivered],),
        )
    return [new_event("shipment_delivered", order, parcel=parcel) for order, parcel in delivered]


def recorder(column: str, parcel: bool = False) -> Callable[[Any, Sequence[Event]], list[Event]]:
    """A reaction of orders that notes when something happened, and completes what is paid for and delivered."""
    change = f"{column} = now()" + (", parcel = v.parcel" if parcel else "")

    def record(sql: Any, events: Sequence[Event]) -> list[Event]:
        after = execute_values(
            sql,
            f"UPDATE orders_order SET {change} FROM (VALUES %s) v (key, parcel) WHERE id = v.key::uuid"
            " RETURNING id::text, status",
            [(event["order"], event["data"].get("parcel", "")) for event in events],
            fetch=True,
        )
        return [new_event("order_completed", order) for order, status in after if status == "completed"]

    return record


REACTIONS = {
    ("payments", "order_placed"): authorize,
    ("shipping", "order_placed"): plan,
    ("shipping", "payment_authorized"): dispatch,
    ("payments", "shipment_dispatched"): capture,
    ("orders", "payment_authorized"): recorder("authorized_at"),
    ("orders", "shipment_dispatched"): recorder("dispatched_at", parcel=True),
    ("orders", "shipment_delivered"): recorder("delivered_at"),
    ("orders", "payment_captured"): recorder("captured_at"),
}


# Outbox and inbox


def prepare(database: str) -> None:
    """Make an outbox and an inbox per service."""
    connection = psycopg2.connect(database)
    with connection, connection.cursor() as sql:
        for service in HEARS:
            sql.execute(
                f"CREATE TABLE floor_outbox_{service} (position bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,"
                " event_type text NOT NULL, body text NOT NULL)"
            )
            sql.execute(f"CREATE TABLE floor_inbox_{service} (event_id uuid PRIMARY KEY)")
    connection.close()


def announce(sql: Any, service: str, events: Sequence[Event]) -> None:
    if events:
        execute_values(
            sql,
            f"INSERT INTO floor_outbox_{service} (event_type, body) VALUES %s",
            [(event["type"], json.dumps(event)) for event in events],
        )
        sql.execute(f"NOTIFY floor_outbox_{service}")


def handle(sql: Any, service: str, events: Sequence[Event]) -> None:
    """The one transaction of a batch."""
    known = execute_values(
        sql,
        f"INSERT INTO floor_inbox_{service} VALUES %s ON CONFLICT DO NOTHING RETURNING event_id::text",
        [(event["id"],) for event in events],
        page_size=1000,
        fetch=True,
    )
    fresh = {event_id for (event_id,) in known}
    announced = []
    for event_type in HEARS[service]:
        alike = [event for event in events if event["type"] == event_type and event["id"] in fresh]
        if alike:
            announced += REACTIONS[service, event_type](sql, alike)
    announce(sql, service, announced)


# Processes


def work(service: str) -> None:
    database = psycopg2.connect(os.environ["DATABASE_URL"])
    connection = connect(os.environ["BROKER_URL"])
    channel = connection.channel()
    channel.queue_declare(service, durable=True, auto_delete=False, arguments={"x-queue-type": "quorum"})
    for event_type in HEARS[service]:
        channel.exchange_declare(event_type, "fanout", durable=True, auto_delete=False)
        channel.queue_bind(service, event_type)
    waiting: list[Any] = []
    channel.basic_qos(0, 2 * BATCH, False)
    channel.basic_consume(service, callback=waiting.append)
    ticked = time.monotonic()
    while True:
        _take(connection, waiting, ticked + TICK - time.monotonic())
        batch, waiting[:] = waiting[:BATCH], waiting[BATCH:]
        if batch:
            with database, database.cursor() as sql:
                handle(sql, service, [json.loads(message.body) for message in batch])
            channel.basic_ack(batch[-1].delivery_tag, multiple=True)
        if time.monotonic() - ticked >= TICK:
            ticked = time.monotonic()
            if service == "shipping":
                _track_all(database)


def _take(connection: Any, waiting: list[Any], patience: float) -> None:
    """Wait for one delivery, ``patience`` seconds at most; then take what else has arrived, a batch at most."""
    pause = max(patience, 0.001)
    while len(waiting) < BATCH:
        try:
            connection.drain_events(timeout=pause if not waiting else 0)
        except TimeoutError:
            return


def _track_all(database: Any) -> None:
    while True:
        with database, database.cursor() as sql:
            delivered = track(sql)
            announce(sql, "shipping", delivered)
        if not delivered:
            return


def relay(service: str) -> None:
    database = psycopg2.connect(os.environ["DATABASE_URL"])
    listener = psycopg2.connect(os.environ["DATABASE_URL"])
    listener.autocommit = True
    listener.cursor().execute(f"LISTEN floor_outbox_{service}")
    pipeline = Pipeline(connect(os.environ["BROKER_URL"]))
    for event_type in ANNOUNCES[service]:
        pipeline.channel.exchange_declare(event_type, "fanout", durable=True, auto_delete=False)
    while True:
        with database, database.cursor() as sql:
            sql.execute(
                f"WITH gone AS (DELETE FROM floor_outbox_{service} WHERE position IN (SELECT position FROM"
                f" floor_outbox_{service} ORDER BY position LIMIT %s FOR UPDATE SKIP LOCKED) RETURNING *)"
                " SELECT event_type, body FROM gone ORDER BY position",
                (RELAYED_AT_ONCE,),
            )
            rows = sql.fetchall()
            pipeline.publish(rows)
        if not rows:
            select.select([listener], [], [], 1.0)
            listener.poll()
            listener.notifies.clear()


# Placing orders

_mine = threading.local()


@contextmanager
def opened() -> Iterator[None]:
    psycopg2.extras.register_uuid()  # type: ignore[no-untyped-call]
    yield


def place() -> Any:
    order_id = sample.new_id()
    facts: dict[str, Any] = {
        "id": order_id,
        **sample.CUSTOMER,
        **sample.ADDRESS,
        **sample.BLANK,
        "payment_token": sample.TOKEN,
        "currency": sample.CURRENCY,
        "total": sample.TOTAL,
    }
    if not hasattr(_mine, "database"):
        _mine.database = psycopg2.connect(os.environ["DATABASE_URL"])
    with _mine.database as database, database.cursor() as sql:
        execute_values(
            sql,
            f"INSERT INTO orders_order ({', '.join(facts)}, placed_at) VALUES %s",
            [tuple(facts.values())],
            template=f"({'%s, ' * len(facts)}now())",
        )
        execute_values(
            sql,
            "INSERT INTO orders_orderline (order_id, product_id, sku, name, unit_price, quantity) VALUES %s",
            [(order_id, *line) for line in sample.LINES],
        )
        placed = new_event(
            "order_placed", str(order_id), total=sample.TOTAL, currency=sample.CURRENCY, ship_to=sample.SHIP_TO
        )
        announce(sql, "orders", [placed])
    return order_id


if __name__ == "__main__":
    {"worker": work, "relay": relay}[sys.argv[1]](sys.argv[2])
