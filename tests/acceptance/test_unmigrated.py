"""New code on an old database: nothing starts before the migrations, and nothing is parked for want of a table."""

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from tests.processes import RunningShop, eventually, running_shop

pytestmark = [pytest.mark.processes, pytest.mark.slow]


@pytest.fixture
def shop(tmp_path: Path) -> Iterator[RunningShop]:
    with running_shop(tmp_path) as shop:
        yield shop


def change(shop: RunningShop, alias: str, statement: str) -> None:
    with closing(sqlite3.connect(Path(shop.environment["DATA_DIR"]) / f"{alias}.sqlite3", timeout=30)) as database:
        database.execute(statement)
        database.commit()


@pytest.mark.parametrize("process", ["worker-payments", "relay-payments"])
def test_a_process_refuses_to_start_and_names_the_command(shop: RunningShop, process: str) -> None:
    change(shop, "payments", "DELETE FROM django_migrations WHERE app = 'payments'")

    shop.start(process)

    eventually(lambda: not shop[process].lives, otherwise=shop[process].says)
    assert shop[process].exit_code != 0
    assert "lacks migrations: payments.0001_initial" in shop[process].says()
    assert "manage.py migrate --database payments" in shop[process].says()
    del shop.processes[process]


def test_a_table_that_is_missing_for_a_while_parks_nothing(shop: RunningShop) -> None:
    names = [f"{kind}-{service}" for kind in ("relay", "worker") for service in ("orders", "payments", "shipping")]
    shop.start(*names, "beat")
    shop.started(*names)
    change(shop, "payments", "ALTER TABLE payments_payment RENAME TO away")
    order = shop.place()
    eventually(lambda: "delivery retried" in shop["worker-payments"].says(), otherwise=shop["worker-payments"].says)

    change(shop, "payments", "ALTER TABLE away RENAME TO payments_payment")

    eventually(lambda: shop.ask("status", order_id=order) == "completed", otherwise=lambda: shop.ask("standing"))
    assert shop.ask("dead_letters", service="payments") == []
