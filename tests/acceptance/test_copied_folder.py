"""A data folder that is copied while the shop runs, as a person does to try something, starts elsewhere."""

import subprocess
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.launched import manage
from tests.processes import SERVICES, eventually, running_shop

pytestmark = [pytest.mark.processes, pytest.mark.slow]

PROCESSES = (*(f"{kind}-{service}" for kind in ("relay", "worker") for service in SERVICES), "beat")


def test_a_folder_copied_while_orders_are_under_way_starts_elsewhere(tmp_path: Path) -> None:
    with ExitStack() as stack:
        shop = stack.enter_context(running_shop(tmp_path / "shop"))
        shop.start(*PROCESSES)
        orders = [shop.place() for _ in range(10)]
        eventually(lambda: shop.ask("heard", service="shipping"), otherwise=lambda: shop.ask("standing"))
        # Files of a moment vanish while they are copied: that is no reason to stop.
        (tmp_path / "elsewhere").mkdir()
        subprocess.run(
            ["cp", "-r", tmp_path / "shop" / "var", tmp_path / "elsewhere"], check=False, capture_output=True
        )

        elsewhere = stack.enter_context(running_shop(tmp_path / "elsewhere"))
        elsewhere.start(*PROCESSES)
        new = elsewhere.place()

        eventually(
            lambda: elsewhere.ask("status", order_id=new) == "completed", otherwise=lambda: elsewhere.ask("standing")
        )
        # The files were not copied at one moment: what was published may not be in the copy of the broker.
        for service in SERVICES:
            send_again = ("choreography", "send_again", service, "--after", "0")
            sent = manage(*send_again, environment=elsewhere.environment)
            assert sent.returncode == 0, sent.stderr
        for each in (shop, elsewhere):
            each.wait_until_all_end()
            assert {each.ask("status", order_id=order) for order in orders} == {"completed"}
            assert each.have_ended() == []
