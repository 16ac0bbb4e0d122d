"""A shop's clerk, in a process of its own: does and looks up what ``processes.Clerk`` asks for, one JSON line each.

``["place", {"token": "tok_slow"}]`` calls ``place(token="tok_slow")`` and is answered ``{"answer": ...}``. Knows only
the services that its process has.
"""

import base64
import hashlib
import json
import os
import shutil
import sys
import traceback
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import django

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "shop.settings")


def open_shop() -> None:
    """Make the tables and the topology, and something to sell."""
    from django.conf import settings
    from django.core.management import call_command

    make_tables()
    call_command("declare_topology")
    if "orders" in settings.SERVICES:
        from orders.models import Product

        Product.objects.get_or_create(sku="TEA", defaults={"name": "Tea", "price": 1250, "currency": "EUR"})


def make_tables() -> None:
    """Apply the migrations. A new SQLite file is a copy of one to which this test run has applied them before."""
    from django.conf import settings
    from django.db import connections

    from shop.preparation import migrate

    apps = repr((settings.INSTALLED_APPS, settings.MIGRATION_MODULES))
    copies = Path(os.environ["COPIES_OF_TABLES"]) / hashlib.sha256(apps.encode()).hexdigest()
    copies.mkdir(exist_ok=True)
    for alias, database in settings.DATABASES.items():
        file, copy = Path(str(database["NAME"])), copies / f"{alias}.sqlite3"
        if not database["ENGINE"].endswith("sqlite3") or file.exists():
            migrate(alias)
        elif copy.exists():
            shutil.copyfile(copy, file)
        else:
            migrate(alias)
            connections[alias].close()  # which moves what is in the log beside it into the file
            unfinished = copies / f"{alias}.{os.getpid()}"
            shutil.copyfile(file, unfinished)
            unfinished.rename(copy)


def close_shop() -> None:
    """Take everything back from a broker that others use too."""
    from choreography.broker import topology
    from choreography.broker.publisher import connect
    from choreography.core.conf import conf

    if conf().namespace:
        with connect() as connection:
            topology.delete(connection)


def place(token: str = "tok_approved", street: str = "Main Street 1") -> str:
    """Place an order for two pots of tea. Needs nothing but the orders database."""
    from orders.models import Order, Product
    from orders.services import Pick, place_order

    order = Order(
        customer_name="Ada Example",
        customer_email="ada@example.org",
        street=street,
        city="Bonn",
        postal_code="53111",
        country="DE",
        payment_token=token,
    )
    return str(place_order(order, [Pick(Product.objects.get(sku="TEA"), 2)]).pk)


def status(order_id: str) -> str:
    from orders.models import Order

    return str(Order.objects.get(pk=order_id).status)


def standing() -> dict[str, Any]:
    """How things stand, for a person who wonders why a test waits."""
    from django.conf import settings

    from choreography.storage.tables import ServiceTables

    counts: dict[str, Any] = {
        service: {
            "to publish": ServiceTables(service).outbox.filter(published_at=None).count(),
            "heard": ServiceTables(service).inbox.count(),
            "dead_letters": [dead_letter["message"] for dead_letter in dead_letters(service)],
        }
        for service in settings.SERVICES
    }
    if "orders" in settings.SERVICES:
        from orders.models import Order

        counts["status"] = dict(Counter(Order.objects.values_list("status", flat=True)))
    return counts


def is_quiet() -> bool:
    """Every order has ended and every event was heard by everyone it is meant for."""
    from orders.models import Order

    open_orders = Order.objects.exclude(status=Order.Status.COMPLETED).exclude(status=Order.Status.CANCELLED)
    return not open_orders.exists() and not list(_unheard())


def unheard() -> list[str]:
    """What was announced and has not taken effect yet, as ``reaction event``."""
    return list(_unheard())


def _unheard() -> Any:
    from django.conf import settings
    from django.db.models.functions import Coalesce

    from choreography.events.registry import reactions
    from choreography.storage.tables import ServiceTables

    announced: dict[str, set[str]] = {}
    event_id: object
    for service in settings.SERVICES:
        rows = ServiceTables(service).outbox.values_list("event_type", Coalesce("fact_id", "event_id"))
        for event_type, event_id in rows:
            announced.setdefault(event_type, set()).add(str(event_id))
    for reaction in reactions():
        inbox = ServiceTables(reaction.service).inbox.filter(reaction=reaction.name)
        heard = set(map(str, inbox.values_list("event_id", flat=True)))
        for event_type in reaction.event_types:
            for event_id in announced.get(event_type, set()) - heard:
                yield f"{reaction.name} {event_id}"


def broken_promises() -> list[str]:
    """Where the services' tables and the records of the external systems contradict the order's end."""
    from django.conf import settings

    from orders.models import Order
    from payments.gateway import gateway
    from payments.models import Payment
    from shipping.carrier import carrier
    from shipping.models import Shipment

    moved: dict[str, Counter[str]] = {}
    for entry in gateway().records():  # type: ignore[attr-defined]  # only a sandbox has records
        moved.setdefault(entry.key.partition(":")[0], Counter())[entry.outcome] += entry.amount
    parcels: dict[str, list[Any]] = {}
    for parcel in carrier().records():  # type: ignore[attr-defined]  # as above
        parcels.setdefault(parcel.key, []).append(str(parcel.state))
    faults = [
        f"{service}: parked {dead_letter}" for service in settings.SERVICES for dead_letter in dead_letters(service)
    ]
    for order in Order.objects.all():
        payment = Payment.objects.filter(pk=order.pk).first() or Payment(pk=order.pk)
        shipment = Shipment.objects.filter(pk=order.pk).first() or Shipment(pk=order.pk)
        records = moved.get(str(order.pk), Counter())
        facts = {
            "ledger": (payment.authorized, payment.captured, payment.voided, payment.refunded),
            "records": tuple(records[kind] for kind in ("authorized", "captured", "voided", "refunded")),
            "shipment": shipment.state,
            "parcels": parcels.get(str(order.pk), []),
        }
        total = (order.total, order.total, 0, 0)
        if order.status == Order.Status.COMPLETED:
            wanted = {"ledger": total, "records": total, "shipment": "delivered", "parcels": ["delivered"]}
            if facts != wanted:
                faults.append(f"{order.pk} is completed, but {facts}")
        elif facts["ledger"] != facts["records"] or payment.held or payment.kept or "delivered" in facts["parcels"]:
            faults.append(f"{order.pk} is {order.status}, but {facts}")
    return faults


def dead_letters(service: str) -> list[dict[str, Any]]:
    """A service's dead letters, the oldest first."""
    from choreography.storage.tables import ServiceTables

    return [
        {
            "event_id": str(dead_letter.event_id),
            "error": dead_letter.error,
            "message": dead_letter.message,
            "state": dead_letter.state,
            "reaction": dead_letter.reaction,
            "body": base64.b64encode(bytes(dead_letter.body)).decode(),
            "content_type": dead_letter.content_type,
            "headers": dead_letter.headers,
        }
        for dead_letter in ServiceTables(service).dead_letters.order_by("pk")
    ]


def heard(service: str) -> list[str]:
    """The ids of the events that took effect in a service, in this order."""
    from choreography.storage.tables import ServiceTables

    return [
        str(event_id) for event_id in ServiceTables(service).inbox.order_by("pk").values_list("event_id", flat=True)
    ]


def heard_types(service: str) -> list[str]:
    """The types of the events that took effect in a service."""
    from choreography.storage.tables import ServiceTables

    return list(ServiceTables(service).inbox.values_list("event_type", flat=True).distinct())


def effects(service: str, subject: str, event_types: list[str]) -> int:
    """How often events of these types about an order took effect in a service."""
    from choreography.storage.tables import ServiceTables

    return int(ServiceTables(service).inbox.filter(subject=subject, event_type__in=event_types).count())


def announced(service: str, subject: str) -> list[str]:
    """The types of the events a service announced about an order."""
    from choreography.storage.tables import ServiceTables

    return list(
        ServiceTables(service).outbox.filter(subject=subject).order_by("position").values_list("event_type", flat=True)
    )


def unpublished(service: str) -> int:
    """How many facts wait in a service's outbox, in whatever versions."""
    from django.db.models.functions import Coalesce

    from choreography.storage.tables import ServiceTables

    waiting = ServiceTables(service).outbox.filter(published_at=None)
    return int(waiting.values(fact=Coalesce("fact_id", "event_id")).distinct().count())


def marks() -> dict[str, str]:
    """What the journal finds wrong, by flow."""
    from journal.models import MarkOfFlow  # only where there is a journal

    return {mark.flow: mark.what for mark in MarkOfFlow.objects.filter(cleared_at=None)}


def told_of(flow: str) -> list[str]:
    """The reactions of which the journal knows that they took effect."""
    from journal.models import Outcome  # only where there is a journal

    return [outcome.reaction for outcome in Outcome.objects.filter(flow=flow, what="done")]


def gateway_calls(order_id: str) -> list[str]:
    """What the gateway's own records have under an order, such as ``["authorized"]``."""
    from payments.gateway import gateway

    return [entry.outcome for entry in gateway().records() if entry.key.startswith(order_id)]  # type: ignore[attr-defined]


def tables() -> list[str]:
    """Every table in the databases of this process's services."""
    from django.conf import settings
    from django.db import connections

    return sorted({name for service in settings.SERVICES for name in connections[service].introspection.table_names()})


def imported() -> list[str]:
    """The packages this process has loaded."""
    return sorted({name.partition(".")[0] for name in sys.modules})


def main(questions: Mapping[str, Any]) -> None:
    """Answer until nobody asks any more.

    Args:
        questions: functions by name, among other things.
    """
    django.setup()
    answers = sys.stdout
    sys.stdout = sys.stderr
    for line in sys.stdin:
        question, details = json.loads(line)
        from django.db import close_old_connections

        close_old_connections()
        try:
            outcome = {"answer": questions[question](**details)}
        except Exception:  # told to the test, which fails with it
            outcome = {"failed": traceback.format_exc()}
        answers.write(json.dumps(outcome) + "\n")
        answers.flush()


if __name__ == "__main__":
    main(globals())
