"""The demo: five sample orders from the moment they are placed to the judgement on how each ended."""

import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from uuid import UUID

from django.utils.translation import gettext as _

from choreography.core import clock
from orders.models import Order
from shop import journeys, samples, verify
from shop.launcher import Launcher, Tell
from shop.readiness import Flower
from shop.samples import Sample

#: Seconds the orders get to end, Flower gets to show what it was told, and between looks.
_ORDERS_LIMIT, _FLOWER_LIMIT, _PAUSE = 60.0, 15.0, 0.2


@dataclass(frozen=True)
class Played:
    """What became of one sample order."""

    title: str
    number: str
    status: str
    faults: list[str]
    """What is not as it must be."""
    steps: list[dict[str, str]]
    """Its journey: ``at`` (RFC 3339), ``service`` and ``what``."""


@dataclass(frozen=True)
class Report:
    """What came of the demo."""

    orders: list[Played] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)
    """What is wrong beside the orders themselves."""

    @property
    def ok(self) -> bool:
        return bool(self.orders) and not self.faults and not any(order.faults for order in self.orders)


def play(launcher: Launcher, flower: Flower, tell: Tell) -> Report | None:
    """Place the samples, tell what happens to them, and judge. ``None``: everything is being stopped instead."""
    begun = clock.now()
    follower = journeys.Follower()
    orders = samples.place()
    ids = [order.pk for order in orders]
    for sample, order in zip(samples.SAMPLES, orders, strict=True):
        tell(f"  {order.number}  {sample.title}")
    for _look in _looks(launcher, _ORDERS_LIMIT):
        for line in journeys.lines(step for step in follower.new_steps() if step.order_id in ids):
            tell(line)
        if all(verify.has_ended(order_id) for order_id in ids) or any(verify.dead_letter_faults(ids, begun)):
            break
    if launcher.stopping.is_set():
        return None
    return Report(
        orders=[_judge(sample, order) for sample, order in zip(samples.SAMPLES, orders, strict=True)],
        faults=[*verify.dead_letter_faults(ids, begun), *_flower_faults(launcher, flower, ids)],
    )


def _judge(sample: Sample, order: Order) -> Played:
    order.refresh_from_db()
    return Played(
        title=str(sample.title),
        number=order.number,
        status=order.status,
        faults=verify.faults(order.pk, sample.ending),
        steps=[
            {"at": step.at.isoformat(), "service": step.service, "what": str(step)}
            for step in journeys.journey(order.pk)
        ],
    )


def _flower_faults(launcher: Launcher, flower: Flower, ids: list[UUID]) -> list[str]:
    """Flower is told a little later than the databases: it gets some time."""
    steps = {order_id: journeys.journey(order_id) for order_id in ids}
    faults: list[str] = []
    for _look in _looks(launcher, _FLOWER_LIMIT):
        try:
            faults = list(verify.flower_faults(flower.workers(), flower.tasks(), steps))
        except OSError as error:
            faults = [_("Flower does not answer: %s") % error]
        if not faults:
            break
    return faults


def _looks(launcher: Launcher, limit: float) -> Iterator[int]:
    """Now and then, for ``limit`` seconds or until everything is to stop."""
    deadline = time.monotonic() + limit
    look = 0
    while time.monotonic() < deadline and not launcher.stopping.is_set():
        yield look
        look += 1
        launcher.stopping.wait(_PAUSE)
