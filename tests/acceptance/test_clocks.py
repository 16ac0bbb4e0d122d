"""The clocks of several hosts differ by an hour or a day, or are set while it runs: orders go on, nothing is lost."""

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.processes import SERVICES, RunningShop, command, eventually, running_shop
from tests.servers import a_corner_of_the_servers
from tests.skewed import skewed

pytestmark = [pytest.mark.processes, pytest.mark.slow, pytest.mark.rabbitmq, pytest.mark.postgresql]

HOUR, DAY = 3600, 86400
PROCESSES = [f"{kind}-{service}" for kind in ("relay", "worker") for service in SERVICES]


@pytest.fixture(scope="module")
def shop(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningShop]:
    with ExitStack() as stack:
        corner = stack.enter_context(a_corner_of_the_servers(request))
        yield stack.enter_context(running_shop(tmp_path_factory.mktemp("shop"), **corner))


@pytest.fixture(autouse=True)
def everything_is_ended(shop: RunningShop) -> Iterator[None]:
    yield
    for process in shop.processes.values():
        process.kill()
    shop.processes.clear()


def start_skewed(shop: RunningShop, name: str, seconds: float) -> Path:
    """Start a process whose clock is ahead. Returns the file that says by how much."""
    file = shop.folder / f"{name}.ahead"
    file.write_text(str(seconds))
    shop.run(name, skewed(command(name), file))
    return file


def completes(shop: RunningShop, token: str = "tok_fails_twice") -> None:
    order = shop.place(token)
    eventually(lambda: shop.ask("status", order_id=order) == "completed", otherwise=lambda: shop.ask("standing"))
    assert [shop.ask("dead_letters", service=service) for service in SERVICES] == [[], [], []]


@pytest.mark.parametrize("seconds", [30, HOUR, DAY])
def test_an_order_completes_where_every_machine_has_another_time(shop: RunningShop, seconds: int) -> None:
    ahead = {"worker-payments": seconds, "relay-payments": -seconds, "worker-orders": -seconds, "beat": -seconds}
    for name, difference in ahead.items():
        start_skewed(shop, name, difference)
    shop.start(*(name for name in PROCESSES if name not in ahead))
    shop.started(*PROCESSES)

    completes(shop, "tok_fails_twice")


@pytest.mark.parametrize("seconds", [-HOUR, DAY])
def test_ticks_go_on_when_the_clock_of_beat_is_set(shop: RunningShop, seconds: int) -> None:
    file = start_skewed(shop, "beat", 0)
    shop.start(*PROCESSES)
    shop.started(*PROCESSES)
    completes(shop, "tok_approved")

    file.write_text(str(seconds))

    completes(shop, "tok_approved")
