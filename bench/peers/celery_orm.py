"""Plain Celery and the Django ORM: each step is a task that sends the next ones with ``transaction.on_commit``.

With ``OUTBOX=1`` it is Celery with django-celery-outbox: each step writes the next ones into an outbox, in its
transaction, and a relay sends them. What follows about lost steps is true without it; that tasks may run twice is true
of both.

What it does not guarantee:

- a crash, or a broker that is down, between commit and ``delay()`` loses the step: the order stops for ever, silently;
- placing an order fails with an error after the commit when the broker is down;
- a task delivered twice takes effect twice (here the database's unique keys stop most of it, with an error);
- a task that fails for good is logged and gone.

Beyond the library's defaults it has quorum queues, publisher confirms and late acknowledgement. ``KEPT=1`` keeps
connections to the database between tasks (``CELERY_DB_REUSE_MAX``), ``PREFETCH`` is how many messages a thread or
process takes in advance.
"""

# ruff: noqa: E402 (Django has to be set up before its models are imported)

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from uuid import UUID

import django
from celery import Celery
from kombu import Exchange, Queue

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "bench.peers.django_settings")
django.setup()

from django.db import transaction
from django.utils import timezone

from bench import external_systems, sample
from orders.models import Order, OrderLine
from payments.models import Entry, Payment
from shipping.models import Shipment

HAS_OUTBOX = os.environ.get("OUTBOX") == "1"

app: Any
if HAS_OUTBOX:
    from django_celery_outbox import OutboxCelery

    app = OutboxCelery("peer", broker=os.environ["BROKER_URL"])
else:
    app = Celery("peer", broker=os.environ["BROKER_URL"])
if os.environ.get("KEPT") == "1":
    app.conf.CELERY_DB_REUSE_MAX = 10_000
app.conf.update(
    worker_prefetch_multiplier=int(os.environ.get("PREFETCH", "4")),
    task_queues=[
        Queue(name, Exchange("tasks", type="topic"), routing_key=name, queue_arguments={"x-queue-type": "quorum"})
        for name in ("orders", "payments", "shipping")
    ],
    task_routes={f"{name}.*": {"queue": name} for name in ("orders", "payments", "shipping")},
    task_default_queue="orders",
    task_acks_late=True,
    task_ignore_result=True,
    broker_transport_options={"confirm_publish": True},
    beat_schedule={
        "track": {"task": "shipping.track_parcels", "schedule": float(os.environ["TRACK_PARCELS_SECONDS"])},
    },
)


def after_commit(send: Callable[[], Any]) -> None:
    """Send the next tasks when the open transaction is committed. Into an outbox they are written with it."""
    if HAS_OUTBOX:
        send()
    else:
        transaction.on_commit(send)


@contextmanager
def opened() -> Iterator[None]:
    yield


def place() -> UUID:
    with transaction.atomic():
        order = Order.objects.create(
            **sample.CUSTOMER,
            **sample.ADDRESS,
            payment_token=sample.TOKEN,
            currency=sample.CURRENCY,
            total=sample.TOTAL,
        )
        OrderLine.objects.bulk_create(
            OrderLine(order=order, product_id=key, sku=sku, name=name, unit_price=price, quantity=quantity)
            for key, sku, name, price, quantity in sample.LINES
        )

        def go_on() -> None:
            authorize_payment.delay(str(order.pk), order.payment_token, order.total, order.currency)
            plan_shipment.delay(str(order.pk), sample.SHIP_TO)

        after_commit(go_on)
    return order.pk


@app.task(name="payments.authorize_payment")
def authorize_payment(order_id: str, token: str, total: int, currency: str) -> None:
    key = f"{order_id}:authorize"
    reference = external_systems.authorize(key)
    with transaction.atomic():
        payment = Payment.objects.create(
            order_id=order_id,
            asked=total,
            authorized=total,
            authorized_at=timezone.now(),
            currency=currency,
            reference=reference,
        )
        Entry.objects.create(payment=payment, kind=Entry.Kind.AUTHORIZED, amount=total, key=key)

        def go_on() -> None:
            record_authorization.delay(order_id)
            dispatch_shipment.delay(order_id)

        after_commit(go_on)


@app.task(name="shipping.plan_shipment")
def plan_shipment(order_id: str, ship_to: dict[str, str]) -> None:
    Shipment.objects.create(order_id=order_id, state=Shipment.State.PLANNED, **ship_to)


@app.task(name="shipping.dispatch_shipment", autoretry_for=(Shipment.DoesNotExist,), retry_backoff=True, max_retries=10)
def dispatch_shipment(order_id: str) -> None:
    parcel = external_systems.book(order_id)
    with transaction.atomic():
        shipment = Shipment.objects.select_for_update().get(pk=order_id)
        shipment.state, shipment.parcel, shipment.dispatched_at = Shipment.State.DISPATCHED, parcel, timezone.now()
        shipment.save()

        def go_on() -> None:
            record_dispatch.delay(order_id, parcel)
            capture_payment.delay(order_id)

        after_commit(go_on)


@app.task(name="payments.capture_payment")
def capture_payment(order_id: str) -> None:
    key = f"{order_id}:capture"
    external_systems.capture(key, Payment.objects.get(pk=order_id).reference)
    with transaction.atomic():
        payment = Payment.objects.select_for_update().get(pk=order_id)
        payment.captured = payment.authorized
        payment.save()
        Entry.objects.create(payment=payment, kind=Entry.Kind.CAPTURED, amount=payment.captured, key=key)
        after_commit(lambda: record_capture.delay(order_id))


@app.task(name="shipping.track_parcels")
def track_parcels() -> None:
    under_way = Shipment.objects.filter(state=Shipment.State.DISPATCHED).order_by("dispatched_at")
    for order_id, parcel in under_way.values_list("order_id", "parcel")[: sample.PARCELS_AT_ONCE]:
        if external_systems.is_delivered(parcel):
            _deliver(order_id)


def _deliver(order_id: UUID) -> None:
    with transaction.atomic():
        shipment = Shipment.objects.select_for_update().get(pk=order_id)
        if shipment.state == Shipment.State.DISPATCHED:
            shipment.state, shipment.ended_at = Shipment.State.DELIVERED, timezone.now()
            shipment.save()
            after_commit(lambda: record_delivery.delay(str(order_id)))


@app.task(name="orders.record_authorization")
def record_authorization(order_id: str) -> None:
    _record(order_id, authorized_at=timezone.now())


@app.task(name="orders.record_dispatch")
def record_dispatch(order_id: str, parcel: str) -> None:
    _record(order_id, dispatched_at=timezone.now(), parcel=parcel)


@app.task(name="orders.record_capture")
def record_capture(order_id: str) -> None:
    _record(order_id, captured_at=timezone.now())


@app.task(name="orders.record_delivery")
def record_delivery(order_id: str) -> None:
    _record(order_id, delivered_at=timezone.now())


def _record(order_id: str, **facts: Any) -> None:
    with transaction.atomic():
        order = Order.objects.select_for_update().get(pk=order_id)
        for name, value in facts.items():
            setattr(order, name, value)
        order.save()
