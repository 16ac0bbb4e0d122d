"""Who takes part, and the processes each consists of.

Everyone has three worker processes, one per service, each handling four deliveries at a time where it can. Besides
them each has what its way of working needs: relays, a clock. All run as they would in production, logging as they do
by default.
"""

import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from bench.peers import floor
from bench.servers import Place
from tests import processes
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
    peer: str = ""
    """What it is a configuration of, if it is a peer: ``celery``."""
    tuning: str = ""
    """How it differs from the library's defaults."""
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
    name: str = "ours",
    title: str = "this shop",
    *,
    reports: bool = True,
    services: tuple[str, ...] = SERVICES,
    **settings: str,
) -> System:
    names = [*(f"{kind}-{service}" for kind in ("relay", "worker") for service in services), "beat"]
    return System(
        name=name,
        title=title,
        module="bench.peers.ours",
        commands={name: tuple(processes.command(name)) for name in names},
        queues=services,
        settings={
            "SHOP_SERVICES": ",".join(services),
            "REPORTS": str(reports),
            "PAYMENT_GATEWAY": "bench.providers.Gateway",
            "CARRIER": "bench.providers.Carrier",
            **settings,
        },
        relay="relay-orders",
    )


def _celery(
    name: str = "celery", tuning: str = "", *, pool: str = "threads", size: int = CONCURRENCY, **settings: str
) -> System:
    module = "bench.peers.celery_orm"
    celery = (*_PYTHON, "celery", "-A", module)
    slots = ("--pool", pool, "--concurrency", str(size))
    has_outbox = settings.get("OUTBOX") == "1"
    commands: dict[str, tuple[str, ...]] = {
        **{f"worker-{it}": (*celery, "worker", "-n", f"{it}@%h", "-Q", it, *slots) for it in SERVICES},
        "beat": (*celery, "beat", "--scheduler", "celery.beat:Scheduler"),
    }
    if has_outbox:
        relay = ("celery_outbox_relay", "--batch-size", "500", "--idle-time", "0.05", "--publish-concurrency", "4")
        commands["relay"] = (*_PYTHON, "django", *relay)
        settings["DJANGO_SETTINGS_MODULE"] = "bench.peers.django_settings"
    return System(
        name=name,
        title="Celery + django-celery-outbox" if has_outbox else "Celery + Django ORM",
        peer="celery-outbox" if has_outbox else "celery",
        tuning=tuning,
        module=module,
        commands=commands,
        settings=settings,
        prepare=_migrate_outbox if has_outbox else None,
    )


def _migrate_outbox(url: str) -> None:
    command = [*_PYTHON, "django", "migrate", "django_celery_outbox", "--verbosity", "0"]
    settings = {
        "DJANGO_SETTINGS_MODULE": "bench.peers.django_settings",
        "OUTBOX": "1",
        "BROKER_URL": "memory://",
        "TRACK_PARCELS_SECONDS": "1",
    }
    subprocess.run(command, cwd=ROOT, env=os.environ | settings | {"DATABASE_URL": url}, check=True)


def _faststream(name: str = "faststream", tuning: str = "", **settings: str) -> System:
    module = "bench.peers.faststream_sqlalchemy"
    has_outbox = settings.get("OUTBOX") == "1"
    commands: dict[str, tuple[str, ...]] = {f"worker-{it}": (*_PYTHON, module, it) for it in SERVICES}
    if has_outbox:
        commands |= {f"relay-{it}": (*_PYTHON, module, "relay", it) for it in SERVICES}
    return System(
        name=name,
        title="FastStream + faststream-outbox" if has_outbox else "FastStream + SQLAlchemy",
        peer="faststream-outbox" if has_outbox else "faststream",
        tuning=tuning,
        module=module,
        commands=commands,
        queues=tuple(f"{service}.{event}" for service, events in floor.HEARS.items() for event in events),
        settings=settings,
        prepare=_create_outbox if has_outbox else None,
    )


def _create_outbox(url: str) -> None:
    command = [*_PYTHON, "bench.peers.faststream_sqlalchemy", "prepare"]
    settings = {"OUTBOX": "1", "BROKER_URL": "amqp://nowhere", "DATABASE_URL": url}
    subprocess.run(command, cwd=ROOT, env=os.environ | settings, check=True)


def _dramatiq(name: str = "dramatiq", tuning: str = "", *, threads: int = CONCURRENCY, **settings: str) -> System:
    module = "bench.peers.dramatiq_sqlalchemy"
    size = ("--processes", "1", "--threads", str(threads))
    return System(
        name=name,
        title="Dramatiq + SQLAlchemy",
        peer="dramatiq",
        tuning=tuning,
        module=module,
        commands={
            **{f"worker-{it}": (*_PYTHON, "dramatiq", module, "--queues", it, *size) for it in SERVICES},
            "clock": (*_PYTHON, module, "clock"),
        },
        settings=settings,
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


#: Configurations of the peers that a competent user would try. What each brought: ``TUNE=1``.
TUNINGS = (
    "celery",
    "celery-kept",
    "celery-kept-16",
    "celery-kept-prefork",
    "faststream",
    "faststream-16",
    "faststream-64",
    "dramatiq",
    "dramatiq-16",
)
#: The best of each, which stands for it.
BEST = ("celery-kept", "faststream-16", "dramatiq")


def main_systems() -> tuple[str, ...]:
    """Who stands in the table: the peers at their best."""
    return ("ours", *BEST, "celery-outbox", "faststream-outbox", "floor1", "floor100")


def all_systems() -> dict[str, System]:
    """Everyone, by name, in the order of the table."""
    everyone = [
        _ours(),
        _ours("journal", "this shop and its journal", services=(*SERVICES, "journal")),
        _ours("unreported", "this shop without reports", reports=False),
        _ours("singles", "this shop, one event per message", EVENTS_PER_MESSAGE="1"),
        _celery(),
        _celery("celery-kept", "kept connections", KEPT="1"),
        _celery("celery-kept-16", "kept connections, 16 threads", KEPT="1", size=16),
        _celery("celery-kept-prefork", "kept connections, 4 processes", KEPT="1", pool="prefork"),
        _faststream(),
        _faststream("faststream-16", "16 at a time", CONCURRENCY="16"),
        _faststream("faststream-64", "64 at a time", CONCURRENCY="64"),
        _dramatiq(),
        _dramatiq("dramatiq-16", "16 threads", threads=16, POOL_SIZE="16", dramatiq_queue_prefetch="64"),
        _celery("celery-outbox", "kept connections", KEPT="1", OUTBOX="1"),
        _faststream("faststream-outbox", "16 at a time", CONCURRENCY="16", OUTBOX="1"),
        _floor(1),
        _floor(100),
    ]
    return {system.name: system for system in everyone}
