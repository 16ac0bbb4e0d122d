"""What people see of an order's way through the services."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from pytest_django.fixtures import Settings

from choreography.core import clock
from choreography.testing import FrozenClock
from shop import flows, samples
from shop.flows import Follower
from shop.samples import SAMPLES
from tests.shop_in_a_box import Shop

pytestmark = pytest.mark.django_db(databases="__all__")


@pytest.fixture
def shop(data_dir: Path, settings: Settings) -> Iterator[Shop]:
    settings.SANDBOX_SLOW_SECONDS = 0.0
    frozen = FrozenClock()
    with clock.use_clock(frozen):
        shop = Shop(frozen)
        yield shop
        shop.close()


def test_a_flow_tells_what_was_announced_and_heard_in_order_of_time(shop: Shop) -> None:
    (order,) = samples.place([SAMPLES[1]])
    shop.settle()

    flow = flows.steps(order.pk)

    assert [step.at for step in flow] == sorted(step.at for step in flow)
    assert {f"{step.service} {step}" for step in flow} == {
        "orders announced order_placed",
        "shipping heard order_placed: plan_shipment",
        "payments heard order_placed: authorize_payment",
        "payments announced payment_declined",
        "orders heard payment_declined: cancel_order",
        "orders announced order_cancelled",
        "payments heard order_cancelled: release_payment",
        "shipping heard order_cancelled: close_shipment",
    }


def test_attempts_are_told_where_there_was_more_than_one(shop: Shop) -> None:
    (order,) = samples.place([SAMPLES[4]])
    shop.settle()

    told = [str(step) for step in flows.steps(order.pk)]

    assert "heard order_placed: authorize_payment, in 3 attempts" in told
    assert "heard order_placed: plan_shipment" in told


def test_a_line_says_when_whose_and_what(shop: Shop) -> None:
    (order,) = samples.place([SAMPLES[0]])
    shop.settle()
    (last,) = [step for step in flows.steps(order.pk) if step.event_type == "orders.order_completed.v1"]

    seconds = (last.at - order.placed_at).total_seconds()
    assert list(flows.lines([last])) == [f"+{seconds:6.2f} s  {order.number}  orders    announced order_completed"]


def test_a_follower_sees_each_step_once_and_nothing_from_before(shop: Shop) -> None:
    (before,) = samples.place([SAMPLES[0]])
    shop.settle()
    follower = Follower()
    assert follower.new_steps() == []

    (order,) = samples.place([SAMPLES[1]])
    seen = follower.new_steps()
    while shop.drain():
        seen += follower.new_steps()
    seen += follower.new_steps()

    assert sorted(seen) == flows.steps(order.pk)
    assert before.pk not in {step.order_id for step in seen}


def test_a_follower_sees_steps_that_are_committed_out_of_order(shop: Shop) -> None:
    follower = Follower()
    (order,) = samples.place([SAMPLES[0]])
    shop.settle()
    flow = flows.steps(order.pk)
    first = flows.Source("orders", "outbox").rows.order_by("pk").first()
    position = first.pk
    first.delete()
    late = len(follower.new_steps())

    first.pk = position
    first.save(force_insert=True)

    assert late == len(flow) - 1
    assert [step.event_type for step in follower.new_steps()] == ["orders.order_placed.v2"]
