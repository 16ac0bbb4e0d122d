"""The demo: place five sample orders, wait for their end, and check the result of each."""

import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from uuid import UUID

from django.utils.translation import gettext as _

from choreography.core import clock
from orders.models import Order
from shop import flows, samples, verify
from shop.launcher import Launcher, PrintLine
from shop.readiness import Flower
from shop.samples import Sample

#: Seconds until the orders must have ended, until Flower must show their tasks, and between two checks.
_ORDERS_LIMIT, _FLOWER_LIMIT, _PAUSE = 60.0, 15.0, 0.2


@dataclass(frozen=True)
class Result:
    """The result of one sample order."""

    title: str
    number: str
    status: str
    faults: list[str]
    """The checks that failed."""
    steps: list[dict[str, str]]
    """Its events and reactions: ``at`` (RFC 3339), ``service`` and ``what``."""


@dataclass(frozen=True)
class Report:
    """The result of the demo."""

    orders: list[Result] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)
    """Failed checks that belong to no order."""

    @property
    def ok(self) -> bool:
        return bool(self.orders) and not self.faults and not any(order.faults for order in self.orders)


def play(launcher: Launcher, flower: Flower, print_line: PrintLine) -> Report | None:
    """Place the samples, print their events, and check the results. ``None`` if the launcher is stopped before."""
    start = clock.now()
    follower = flows.Follower()
    orders = samples.place()
    ids = [order.pk for order in orders]
    for sample, order in zip(samples.SAMPLES, orders, strict=True):
        print_line(f"  {order.number}  {sample.title}")
    for _poll in _polls(launcher, _ORDERS_LIMIT):
        for line in flows.lines(step for step in follower.new_steps() if step.order_id in ids):
            print_line(line)
        if all(verify.has_ended(order_id) for order_id in ids) or any(verify.dead_letter_faults(ids, start)):
            break
    if launcher.stopping.is_set():
        return None
    return Report(
        orders=[_result_of(sample, order) for sample, order in zip(samples.SAMPLES, orders, strict=True)],
        faults=[*verify.dead_letter_faults(ids, start), *_flower_faults(launcher, flower, ids)],
    )


def _result_of(sample: Sample, order: Order) -> Result:
    order.refresh_from_db()
    return Result(
        title=str(sample.title),
        number=order.number,
        status=order.status,
        faults=verify.faults(order.pk, sample.ending),
        steps=[
            {"at": step.at.isoformat(), "service": step.service, "what": str(step)} for step in flows.steps(order.pk)
        ],
    )


def _flower_faults(launcher: Launcher, flower: Flower, ids: list[UUID]) -> list[str]:
    """Flower receives task events after the databases have committed, so it is checked repeatedly."""
    steps = {order_id: flows.steps(order_id) for order_id in ids}
    faults: list[str] = []
    for _poll in _polls(launcher, _FLOWER_LIMIT):
        try:
            faults = list(verify.flower_faults(flower.workers(), flower.tasks(), steps))
        except OSError as error:
            faults = [_("Flower does not respond: %s") % error]
        if not faults:
            break
    return faults


def _polls(launcher: Launcher, limit: float) -> Iterator[None]:
    """Yields every ``_PAUSE`` seconds, for ``limit`` seconds or until the launcher stops."""
    deadline = time.monotonic() + limit
    while time.monotonic() < deadline and not launcher.stopping.is_set():
        yield
        launcher.stopping.wait(_PAUSE)
