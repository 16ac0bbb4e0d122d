"""Events that are handled together leave what the same events leave that are handled one by one."""

import json
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any
from uuid import UUID

from django.apps import apps
from django.db import transaction
from pytest_django.fixtures import Settings

from choreography.core import clock
from choreography.core.conf import conf
from choreography.events.messages import CONTENT_TYPE
from choreography.events.registry import Reaction, reactions
from choreography.inbox.deliveries import Delivery, RetryLater, Unhandled
from choreography.inbox.handler import handle, handle_one
from choreography.testing import FrozenClock
from orders.models import Order
from payments.sandbox import TOKENS
from tests.wire import event, text

_TOTAL = 2500
_ORDERS, _ROUNDS = 8, 40
_STREETS = ("Main Street 1", "Main Street 2", "Undeliverable Street 1", "Unreachable Road 1")
#: What differs from run to run, or counts attempts: in a batch an external system may have been called once more.
_APART = {"id", "position", "event_id", "body", "entry", "traceback", "message", "attempts", "location", "fingerprint"}


@dataclass(frozen=True)
class Round:
    """Deliveries to one reaction that wait together."""

    reaction: Reaction
    deliveries: list[Delivery]


def history(chance: Random) -> list[Round]:
    """What a service may hear of some orders, in any order, some of it twice."""
    tokens = {
        UUID(int=number): chance.choice([*TOKENS, *["tok_approved"] * len(TOKENS)]) for number in range(1, _ORDERS + 1)
    }
    heard: dict[str, list[Delivery]] = {}
    rounds = []
    known = [reaction for service in conf().services for reaction in reactions(service)]
    for _ in range(_ROUNDS):
        reaction = chance.choice(known + 2 * [reaction for reaction in known if reaction.ask])
        before = heard.setdefault(reaction.name, [])
        deliveries = [_delivery(chance, reaction, order, tokens[order]) for order in _some(chance, tokens)]
        deliveries += chance.sample(before, min(len(before), chance.choice([0, 0, 1, 2])))
        before += deliveries
        chance.shuffle(deliveries)
        rounds.append(Round(reaction, deliveries))
    return rounds


def _some(chance: Random, orders: Iterable[UUID]) -> list[UUID]:
    return chance.sample([*orders], chance.randint(1, _ORDERS))


def _delivery(chance: Random, reaction: Reaction, order: UUID, token: str) -> Delivery:
    document = event(
        chance.choice(reaction.event_types),
        id=str(UUID(int=chance.getrandbits(128), version=4)),
        subject=str(order),
        time=f"2026-01-01T00:{chance.randint(0, 59):02}:00Z",
        data={
            **{"payment_token": token, "total": _TOTAL, "currency": "EUR", "amount": _TOTAL},
            **{"reason": chance.choice(["changed_mind", "lost"]), "parcel": f"parcel_{order}"},
            "customer": {"name": {"full": "Ada"}},
            "ship_to": {
                **{"name": "Ada Example", "street": _STREETS[order.int % len(_STREETS)]},
                **{"city": "Bonn", "postal_code": "53111", "country": "DE"},
            },
        },
    )
    return Delivery(reaction.service, text(document), CONTENT_TYPE)


def alone(deliveries: Sequence[Delivery]) -> None:
    for delivery in deliveries:
        for _ in range(4):  # a provider that fails now and then is asked until it answers
            if not isinstance(handle_one(delivery), RetryLater):
                break


def together(deliveries: Sequence[Delivery]) -> None:
    outcomes = handle(deliveries)
    alone(
        [
            delivery
            for delivery, outcome in zip(deliveries, outcomes, strict=True)
            if isinstance(outcome, Unhandled | RetryLater)
        ]
    )


def _in_batches(chance: Random) -> Callable[[Sequence[Delivery]], None]:
    def handle(deliveries: Sequence[Delivery]) -> None:
        deliveries = list(deliveries)
        while deliveries:
            size = chance.randint(1, len(deliveries))
            together(deliveries[:size])
            del deliveries[:size]

    return handle


def left_by(rounds: Sequence[Round], handle: Callable[[Sequence[Delivery]], None], seed: int) -> dict[str, list[Any]]:
    """Every row of every table of the services after all that, but for the records of what is on the ladder."""
    frozen = FrozenClock(seed)
    with clock.use_clock(frozen), ExitStack() as stack:
        for service in conf().services:
            stack.enter_context(transaction.atomic(using=service))
        for number in range(1, _ORDERS):  # orders has never heard of the last
            Order.objects.create(id=UUID(int=number), customer_name="Ada", currency="EUR", total=_TOTAL)
        for each in rounds:
            frozen.advance(1)
            handle(each.deliveries)
        rows = {
            model._meta.label: sorted(map(_plain, model._base_manager.values()), key=repr)
            for service in conf().services
            for model in apps.get_app_config(service).get_models()
            if model.__name__ != "Retry"
        }
        for service in conf().services:
            transaction.set_rollback(True, using=service)
    return rows


def _plain(row: dict[str, Any]) -> dict[str, Any]:
    about = {name: value for name, value in row.items() if name not in _APART}
    if "sequence" in row and "body" in row:
        envelope = json.loads(row["body"])
        about |= {name: envelope[name] for name in ("data", "correlationid", "sequence", "subject", "time")}
    return about


def test_it_makes_no_difference(settings: Settings, tmp_path: Path) -> None:
    met: dict[str, set[str]] = {"kind": set(), "state": set(), "status": set()}
    settings.SANDBOX_SLOW_SECONDS = 0.0
    for seed in range(4):
        chance = Random(seed)
        rounds = history(chance)

        settings.SANDBOX_DIR = tmp_path / f"alone-{seed}"
        one_by_one = left_by(rounds, alone, seed)
        settings.SANDBOX_DIR = tmp_path / f"together-{seed}"
        in_batches = left_by(rounds, _in_batches(chance), seed)

        for table, rows in one_by_one.items():
            assert in_batches[table] == rows, f"{table}, with seed {seed}"
            for column, values in met.items():
                values.update(row[column] for row in rows if column in row)
    assert met["kind"] == {"authorized", "captured", "voided", "refunded"}
    assert met["state"] >= {"planned", "dispatched", "failed", "cancelled", "parked"}
    assert met["status"] >= {"dispatched", "completed", "cancelled"}
