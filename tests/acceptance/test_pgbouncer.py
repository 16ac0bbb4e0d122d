"""The shop behind PgBouncer in transaction mode, where nothing of a database session outlives a transaction.

``THROUGH_PGBOUNCER=1 make test ALL=1`` leads every test of the real servers through it.
"""

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import psycopg2
import pytest

from tests.processes import SERVICES, RunningShop, eventually, running_shop
from tests.servers import PgBouncer, own_database, own_pgbouncer

pytestmark = [pytest.mark.processes, pytest.mark.slow, pytest.mark.rabbitmq, pytest.mark.postgresql]

PROCESSES = (*(f"{kind}-{service}" for kind in ("relay", "worker") for service in SERVICES), "beat")
ENDS = {
    "tok_approved": "completed",
    "tok_slow": "completed",
    "tok_timeout": "completed",
    "tok_declined_funds": "cancelled",
}


@pytest.fixture
def database(postgresql_url: str, namespace: str) -> Iterator[str]:
    with own_database(postgresql_url, namespace.rstrip(".").replace("-", "_")) as database:
        yield database


@pytest.fixture
def pool(database: str) -> Iterator[PgBouncer]:
    with own_pgbouncer(database) as pool:
        yield pool


@pytest.fixture
def shop(tmp_path: Path, rabbitmq_url: str, namespace: str, database: str, pool: PgBouncer) -> Iterator[RunningShop]:
    settings = {"BROKER_URL": rabbitmq_url, "CHOREOGRAPHY_NAMESPACE": namespace, "SANDBOX_SLOW_SECONDS": "7"}
    with running_shop(tmp_path / "shop", DATABASE_URL=pool.url(database), **settings) as shop:
        shop.start(*PROCESSES)
        yield shop


def test_orders_end_as_they_should_though_a_worker_and_the_pool_are_killed(
    shop: RunningShop, pool: PgBouncer, database: str
) -> None:
    """A call to the gateway takes longer than a claim is kept by itself."""
    orders = {shop.place(token): end for token, end in list(ENDS.items()) * 8}
    slow = next(order for order, end in orders.items() if end == "completed")
    eventually(lambda: shop.ask("gateway_calls", order_id=slow) != [], otherwise=lambda: shop.ask("standing"))

    shop["worker-payments"].kill()
    shop.start("worker-payments")
    pool.close()
    pool.start()

    shop.wait_until_all_end()
    assert {order: shop.ask("status", order_id=order) for order in orders} == orders
    assert shop.ask("broken_promises") == []
    assert shop.have_ended() == []
    assert "outbox polled" in shop["relay-orders"].says()
    with closing(psycopg2.connect(database)) as connection, connection.cursor() as cursor:
        cursor.execute("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'")
        assert cursor.fetchone() == (0,)
