"""Who takes part, and the processes each consists of.

Everyone has three worker processes, one per service, each handling four deliveries at a time where it can. Besides
them each has what its way of working needs: relays, a clock. All run as they would in production, logging as they do
by default.
"""

import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from honcho.environ import parse_procfile

from bench.peers import floor
from bench.servers import Place
from tests.processes import ROOT, clean_environment

SERVICES = ("orders", "payments", "shipping")
CONCURRENCY = 4
#: Seconds between looks at where the parcels are, for everyone.
TRACKING = 0.25

_PYTHON = (sys.executable, "-m")


@dataclass(frozen=True)
class System:
    """One of those that are compared."""

    name: str
    title: str
    module: str
    """Where its ``place`` is."""
    commands: Mapping[str, tuple[str, ...]]
    """Its processes. Workers are named ``worker-...``."""
    queues: tuple[str, ...] = SERVICES
    """Each has a consumer once it is up."""
    settings: Mapping[str, str] = field(default_factory=dict)
    prepare: Callable[[str], None] | None = None
    """Gets the URL of the empty database."""
    relay: str | None = None
    """The process that takes the events of orders to the broker, if it is one of its own."""

    def environment(self, place: Place, folder: Path) -> dict[str, str]:
        """What its processes find in their environment."""
        return {
            **clean_environment(folder),
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "DEBUG": "false",
            "DATABASE_URL": place.database,
            "BROKER_URL": place.broker,
            "TRACK_PARCELS_SECONDS": str(TRACKING),
            **self.settings,
        }


def _ours(
    name: str = "ours", title: str = "this shop", *, reports: bool = True, services: tuple[str, ...] = SERVICES
) -> System:
    lines = parse_procfile((ROOT / "Procfile").read_text()).processes
    left_out = {"web", "flower", *(f"{kind}-journal" for kind in ("relay", "worker") if "journal" not in services)}
    return System(
        name=name,
        title=title,
        module="bench.peers.ours",
        commands={name: ("sh", "-c", line) for name, line in lines.items() if name not in left_out},
        queues=services,
        settings={
            "SHOP_SERVICES": ",".join(services),
            "REPORTS": str(reports),
            "PAYMENT_GATEWAY": "bench.providers.Gateway",
            "CARRIER": "bench.providers.Carrier",
            "WORKER_CONCURRENCY": str(CONCURRENCY),
        },
        relay="relay-orders",
    )


def _celery() -> System:
    module = "bench.peers.celery_orm"
    celery = (*_PYTHON, "celery", "-A", module)
    pool = ("--pool", "threads", "--concurrency", str(CONCURRENCY))
    return System(
        name="celery",
        title="Celery + Django ORM",
        module=module,
        commands={
            **{f"worker-{it}": (*celery, "worker", "-n", f"{it}@%h", "-Q", it, *pool) for it in SERVICES},
            "beat": (*celery, "beat", "--scheduler", "celery.beat:Scheduler"),
        },
    )


def _faststream() -> System:
    module = "bench.peers.faststream_sqlalchemy"
    return System(
        name="faststream",
        title="FastStream + SQLAlchemy",
        module=module,
        commands={f"worker-{service}": (*_PYTHON, module, service) for service in SERVICES},
        queues=tuple(f"{service}.{event}" for service, events in floor.HEARS.items() for event in events),
    )


def _dramatiq() -> System:
    module = "bench.peers.dramatiq_sqlalchemy"
    size = ("--processes", "1", "--threads", str(CONCURRENCY))
    return System(
        name="dramatiq",
        title="Dramatiq + SQLAlchemy",
        module=module,
        commands={
            **{f"worker-{it}": (*_PYTHON, "dramatiq", module, "--queues", it, *size) for it in SERVICES},
            "clock": (*_PYTHON, module, "clock"),
        },
    )


def _floor(group: int) -> System:
    module = "bench.peers.floor"
    kinds = ("worker", "relay")
    return System(
        name=f"floor{group}",
        title=f"floor, {group} per transaction",
        module=module,
        commands={f"{kind}-{it}": (*_PYTHON, module, kind, it) for kind in kinds for it in SERVICES},
        settings={"BATCH": str(group)},
        prepare=floor.prepare,
        relay="relay-orders",
    )


#: Of this shop, to see what its journal costs: measured where they are named.
VARIANTS = ("journal", "unreported")


def all_systems() -> dict[str, System]:
    """Everyone, by name, in the order of the table."""
    everyone = [
        _ours(),
        _ours("journal", "this shop and its journal", services=(*SERVICES, "journal")),
        _ours("unreported", "this shop without reports", reports=False),
        _celery(),
        _faststream(),
        _dramatiq(),
        _floor(1),
        _floor(100),
    ]
    return {system.name: system for system in everyone}
