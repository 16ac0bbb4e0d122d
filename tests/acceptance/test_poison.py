"""An event that ends the process of whatever worker handles it costs only itself."""

import json
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from choreography.events.messages import BATCH_CONTENT_TYPE
from tests.killer import DEADLY
from tests.processes import RunningShop, eventually, running_shop, worker
from tests.servers import a_corner_of_the_servers
from tests.wire import Wire, event, sender

pytestmark = [pytest.mark.processes, pytest.mark.slow]

INNOCENT = 60
MOST_DEATHS = 5


REAL = pytest.param("real", marks=[pytest.mark.rabbitmq, pytest.mark.postgresql])


@pytest.fixture
def shop(request: pytest.FixtureRequest, kind: str, tmp_path: Path) -> Iterator[RunningShop]:
    with ExitStack() as stack:
        corner = stack.enter_context(a_corner_of_the_servers(request)) if kind == "real" else {}
        yield stack.enter_context(
            running_shop(tmp_path / "shop", PAYMENT_GATEWAY="tests.killer.KillerGateway", **corner)
        )


def order_placed(token: str) -> dict[str, Any]:
    return event(data={"payment_token": token, "total": 1999, "currency": "EUR"})


def send_poison_among_innocents(shop: RunningShop, in_one_message: bool = False) -> tuple[str, set[str]]:
    """Returns the ids of the event that ends processes, and of the others around it."""
    poison, innocent = order_placed(DEADLY), [order_placed("tok_approved") for _ in range(INNOCENT)]
    events = [*innocent[: INNOCENT // 2], poison, *innocent[INNOCENT // 2 :]]
    with sender(shop) as foreigner:
        if in_one_message:
            foreigner.send(Wire(json.dumps(events).encode(), content_type=BATCH_CONTENT_TYPE))
        else:
            for each in events:
                foreigner.send_event(each)
    return poison["id"], {each["id"] for each in innocent}


def assert_that_only_the_poison_is_parked(shop: RunningShop, poison: str, innocent: set[str]) -> None:
    assert set(shop.ask("heard", service="payments")) == innocent
    (dead_letter,) = shop.ask("dead_letters", service="payments")
    assert dead_letter["event_id"] == poison
    assert "the worker's process ended" in dead_letter["message"]


@pytest.mark.parametrize(
    ("kind", "pool", "in_one_message"),
    [
        ("embedded", "solo", False),
        pytest.param("real", "threads", False, marks=REAL.marks),
        pytest.param("real", "threads", True, marks=REAL.marks),
    ],
)
def test_a_worker_that_is_started_again_parks_only_what_ends_it(
    shop: RunningShop, pool: str, in_one_message: bool
) -> None:
    poison, innocent = send_poison_among_innocents(shop, in_one_message)
    deaths = 0

    def is_over() -> bool:
        nonlocal deaths
        if not shop["worker-payments"].lives:
            deaths += 1
            assert deaths <= MOST_DEATHS, shop["worker-payments"].says()
            shop.run("worker-payments", worker("payments", pool=pool))
        return bool(shop.ask("dead_letters", service="payments")) and innocent <= set(
            shop.ask("heard", service="payments")
        )

    shop.run("worker-payments", worker("payments", pool=pool))
    eventually(is_over, within=180, otherwise=lambda: shop["worker-payments"].says()[-3000:])

    assert_that_only_the_poison_is_parked(shop, poison, innocent)
    assert shop["worker-payments"].end() == 0
