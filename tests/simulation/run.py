"""One history from its first action to its end, with the invariants checked all the way."""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from django.apps import apps
from django.conf import settings
from django.db import connections, transaction
from django.test import override_settings

from choreography.core import clock
from choreography.core.conf import conf
from choreography.simulation import Violation, violation_of
from choreography.simulation.actions import Schedule
from choreography.storage.tables import ServiceTables
from choreography.testing import FrozenClock
from orders.models import Order
from payments.gateway import gateway
from shipping.carrier import carrier
from tests.shop_in_a_box import WITH_JOURNAL, WITHOUT_JOURNAL
from tests.simulation import external_systems
from tests.simulation.shop import LIFETIME, SimulatedShop

#: Tables' columns that tell of the machine rather than of the history.
_OF_THE_MACHINE = {"traceback", "fingerprint"}


@dataclass(frozen=True)
class History:
    """What became of a schedule."""

    seed: int
    violation: Violation | None
    story: list[str]
    digest: str
    """Of the story and the final state: equal for equal histories, on every machine."""
    ends: dict[str, int] = field(default_factory=dict)
    """How many orders ended in which state."""
    outcomes: dict[str, int] = field(default_factory=dict)
    """How many deliveries ended as what."""
    batches: dict[int, int] = field(default_factory=dict)
    """How many batches there were of how many deliveries. One alone is a batch of 1."""
    pairs: frozenset[tuple[str, str, str]] = frozenset()
    """Service, and two event types of which it handled the first before the second, for one order."""

    @property
    def orders(self) -> int:
        return sum(self.ends.values())


class Simulator:
    """Where histories run, one after the other. Needs empty databases of the services, and owns them meanwhile."""

    def run(self, schedule: Schedule, seed: int) -> History:
        """Let a history happen. ``seed`` also decides ids and jitter."""
        self._forget_everything()
        frozen = FrozenClock(seed)
        with clock.use_clock(frozen):
            shop = SimulatedShop(frozen, self._begin())
            try:
                return _history(seed, shop, violation_of(shop, schedule))
            finally:
                shop.close()

    def _begin(self) -> external_systems.ExternalSystems:
        state = external_systems.ExternalSystems()
        external_systems.Gateway.systems = external_systems.Carrier.systems = state
        return state

    def _forget_everything(self) -> None:
        for service in conf().services:
            with (
                transaction.atomic(using=ServiceTables(service).alias),
                connections[ServiceTables(service).alias].cursor() as cursor,
            ):
                for table, _ in _queries(service):
                    cursor.execute(f'DELETE FROM "{table}"')
                cursor.execute("DELETE FROM sqlite_sequence")
        for records in (gateway(), carrier()):
            assert isinstance(records, external_systems.Gateway | external_systems.Carrier)
            records.forget_everything()


def memory() -> str | None:
    """A folder that is kept in memory, where there is one."""
    return "/dev/shm" if Path("/dev/shm").is_dir() else None


@contextmanager
def simulator(folder: Path, *, journal: bool = False) -> Iterator[Simulator]:
    """A simulator, which keeps the sandbox's records and the claims in ``folder``; of a shop with a journal or not."""
    with override_settings(
        PAYMENT_GATEWAY=f"{external_systems.__name__}.Gateway",
        CARRIER=f"{external_systems.__name__}.Carrier",
        CHOREOGRAPHY=settings.CHOREOGRAPHY | (WITH_JOURNAL if journal else WITHOUT_JOURNAL),
        DATA_DIR=folder,
        SANDBOX_DIR=folder / "sandbox",
        SANDBOX_SLOW_SECONDS=0.0,
        SANDBOX_LATENCY_SECONDS=0.0,
        SANDBOX_DELIVERY_SECONDS=2.0,
        AUTHORIZATION_LIFETIME_SECONDS=LIFETIME,
        UNPAID_ORDER_LIFETIME_SECONDS=LIFETIME,
    ):
        yield Simulator()


@cache
def _queries(service: str) -> list[tuple[str, str]]:
    """Each table of a service, and how to read all of it but what tells of the machine, always in the same order."""
    queries = []
    for model in apps.get_app_config(service).get_models():
        columns = [each.column for each in model._meta.concrete_fields if each.column not in _OF_THE_MACHINE]
        table, key = model._meta.db_table, model._meta.pk
        assert key is not None
        queries.append((table, f'SELECT {", ".join(map(str, columns))} FROM "{table}" ORDER BY {key.column}'))
    return queries


def _history(seed: int, shop: SimulatedShop, violation: Violation | None) -> History:
    if violation is not None:
        detail = shop.in_short(violation.detail)
        violation = Violation(violation.invariant, violation.about, detail)
    ends: dict[str, int] = {}
    for status in Order.objects.order_by("pk").values_list("status", flat=True):
        ends[status] = ends.get(status, 0) + 1
    return History(
        seed=seed,
        violation=violation,
        story=shop.told,
        digest=_digest(shop),
        ends=ends,
        outcomes=dict(sorted(shop.outcomes_by_kind.items())),
        batches=dict(sorted(shop.sizes.items())),
        pairs=frozenset(_pairs(shop)),
    )


def _digest(shop: SimulatedShop) -> str:
    digest = hashlib.sha256("\n".join(shop.told).encode())
    for service in shop.services:
        with connections[ServiceTables(service).alias].cursor() as cursor:
            for table, query in _queries(service):
                cursor.execute(query)
                digest.update(repr((table, cursor.fetchall())).encode())
    for records in (gateway(), carrier()):
        assert isinstance(records, external_systems.Gateway | external_systems.Carrier)
        digest.update(repr(records.records()).encode())
    return digest.hexdigest()[:16]


def _pairs(shop: SimulatedShop) -> Iterator[tuple[str, str, str]]:
    for service in shop.services:
        heard: dict[Any, list[str]] = {}
        rows = ServiceTables(service).inbox.order_by("pk").values_list("subject", "event_type")
        for order_id, event_type in rows:
            before = heard.setdefault(order_id, [])
            yield from ((service, earlier, event_type) for earlier in before if earlier != event_type)
            before.append(event_type)
