"""Looks things up in every service's database and in the records of the external systems."""

import os
import time
from collections import Counter
from collections.abc import Iterator
from typing import Any

from tests import clerk
from tests.clerk import open_shop  # noqa: F401  (asked for by name)

#: As many examples of one broken invariant as anyone reads.
_EXAMPLES = 5
#: Seconds the journal has for the reports that are still on their way; with a protection switched off, none may come.
_LAST_REPORTS = 2 if os.environ.get("SABOTAGE") else 20


def close_shop() -> None:
    """Nothing has to be taken back: the servers are the run's own, and may be down now."""


def open_admin(password: str) -> None:
    """Make the account with which orders are placed in the admin."""
    from django.contrib.auth import get_user_model

    get_user_model().objects.create_superuser("admin", password=password)


def product() -> int:
    """The key of what is sold, for the form."""
    from orders.models import Product

    return int(Product.objects.get(sku="TEA").pk)


def queues() -> list[str]:
    """The names of all queues of the shop."""
    from choreography.broker import topology
    from choreography.core.conf import conf

    return [queue.name for service in conf().services for queue in topology.queues(service)]


def open_orders() -> list[dict[str, str]]:
    """Orders that have not ended and need no person: id, token, street and status."""
    from orders.models import Order

    ended = (Order.Status.COMPLETED, Order.Status.CANCELLED)
    rows = Order.objects.exclude(status__in=ended).filter(attention="")
    return [
        {"id": str(order.pk), "token": order.payment_token, "street": order.street, "status": order.status}
        for order in rows
    ]


def progress() -> dict[str, int]:
    """What changes as long as anything happens. Not what the journal hears: services report to it for ever."""
    from django.conf import settings

    from choreography.storage.tables import ServiceTables

    counts = {"open": len(open_orders()), "unpublished": 0, "heard": 0, "announced": 0, "reports": 0}
    for service in settings.SERVICES:
        outbox = ServiceTables(service).outbox
        if service == "journal":
            counts["unpublished"] += outbox.filter(published_at=None).count()
            continue
        counts["announced"] += outbox.count()
        counts["unpublished"] += outbox.filter(published_at=None).count()
        counts["reports"] += ServiceTables(service).reports.count()
        counts["heard"] += ServiceTables(service).inbox.count()
    return counts


def unheard() -> int:
    """Events that have not taken effect everywhere yet."""
    return len(clerk.unheard())


def ends() -> dict[str, int]:
    """Orders by how they stand in the end; those that a person must see to by that."""
    from orders.models import Order

    return dict(
        Counter(
            "needs_a_person" if attention and status != Order.Status.COMPLETED else str(status)
            for status, attention in Order.objects.values_list("status", "attention")
        )
    )


def missing(submissions: list[str]) -> list[str]:
    """Which of these forms made no order."""
    from orders.models import Order

    stored = set(map(str, Order.objects.exclude(submission=None).values_list("submission", flat=True)))
    return sorted(set(submissions) - stored)


def not_kept(bodies: list[str]) -> list[str]:
    """Which of these messages are not among the dead letters, each once."""
    from django.conf import settings

    from choreography.storage.tables import ServiceTables

    kept = Counter(
        bytes(body)
        for service in settings.SERVICES
        for body in ServiceTables(service).dead_letters.filter(reaction="").values_list("body", flat=True)
    )
    return [f"{body}: {kept[body.encode()]} times" for body in bodies if kept[body.encode()] != 1]


def parked(but_for: list[str]) -> list[str]:
    """Dead letters that wait for a person, with the way they came; but for messages with these bodies."""
    from django.conf import settings

    from choreography.storage.tables import ServiceTables

    return [
        f"{dead_letter.reaction or 'unusable message'}: {dead_letter.error} {dead_letter.message[:200]}"
        f" (order {dead_letter.subject}, headers {dead_letter.headers})"
        for service in settings.SERVICES
        for dead_letter in ServiceTables(service).dead_letters.filter(state="parked").order_by("pk")
        if bytes(dead_letter.body).decode(errors="replace") not in but_for
    ]


def violations() -> dict[str, Any]:
    """Broken invariants: what that means (``lost``, ``doubled``, ``violated``), how often, and some examples."""
    from tests import invariants

    kinds = dict.fromkeys(invariants.LOST, "lost") | dict.fromkeys(invariants.DOUBLED, "doubled")
    found: dict[str, Any] = {}
    for violation in invariants.once_settled(invariants.Facts()):
        kind = kinds.get(violation.invariant, "violated")
        entry = found.setdefault(violation.invariant, {"kind": kind, "count": 0, "examples": []})
        entry["count"] += 1
        if entry["count"] <= _EXAMPLES:
            entry["examples"].append(str(violation))
    deadline = time.monotonic() + _LAST_REPORTS
    while (wrong := [*_wrong_in_journal()]) and time.monotonic() < deadline:
        time.sleep(0.3)
    if wrong:
        found["journal_agrees"] = {"kind": "violated", "count": len(wrong), "examples": wrong[:_EXAMPLES]}
    return found


def _wrong_in_journal() -> Iterator[str]:
    """What the journal misses, or has invented; and flows of orders that have ended, marked as if they had not."""
    from orders.models import Order
    from tests.journal_agrees import disagreements, wrong_flows

    yield from disagreements(Order.objects.values_list("pk", flat=True))
    ended = Order.objects.filter(status__in=(Order.Status.COMPLETED, Order.Status.CANCELLED), attention="")
    yield from wrong_flows(ended.values_list("pk", flat=True))


if __name__ == "__main__":
    clerk.main(globals())
