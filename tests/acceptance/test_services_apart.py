"""Each service on its own: with its own code and database only, each by itself, they complete an order together."""

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass

import pytest

from tests.processes import SERVICES, RunningShop, eventually, running_shop
from tests.servers import own_database

pytestmark = [pytest.mark.processes, pytest.mark.slow, pytest.mark.rabbitmq, pytest.mark.postgresql]

OF_THE_MACHINERY = {"outbox", "inbox", "deadletter"}


@dataclass(frozen=True)
class Apart:
    """One shop per service, which share nothing but the broker."""

    orders: RunningShop
    payments: RunningShop
    shipping: RunningShop


@pytest.fixture(scope="module")
def apart(
    tmp_path_factory: pytest.TempPathFactory, rabbitmq_url: str, postgresql_url: str, request: pytest.FixtureRequest
) -> Iterator[Apart]:
    folder = tmp_path_factory.mktemp("apart")
    name = f"test_apart_{folder.parent.name}_{folder.name}".replace("-", "_")
    with ExitStack() as stack:
        database = stack.enter_context(own_database(postgresql_url, name))
        own = {"payments": {"PAYMENTS_DATABASE_URL": database}}
        shops = {}
        for service in SERVICES:
            shop = running_shop(
                folder / service,
                SHOP_SERVICES=service,
                BROKER_URL=rabbitmq_url,
                CHOREOGRAPHY_NAMESPACE=f"{name}.",
                **own.get(service, {}),
            )
            shops[service] = stack.enter_context(shop)
            shops[service].start(f"relay-{service}", f"worker-{service}")
        shops["shipping"].start("beat")
        yield Apart(**shops)
        for running in shops.values():  # before the first of them takes down the topology they share
            running.end_all()


def test_an_order_is_completed(apart: Apart) -> None:
    order = apart.orders.place()

    eventually(
        lambda: apart.orders.ask("status", order_id=order) == "completed",
        otherwise=lambda: [shop.ask("standing") for shop in (apart.orders, apart.payments, apart.shipping)],
    )
    assert apart.payments.ask("gateway_calls", order_id=order) == ["authorized", "captured"]
    for service in SERVICES:
        assert getattr(apart, service).ask("dead_letters", service=service) == []


@pytest.mark.parametrize("service", SERVICES)
def test_a_service_has_the_tables_of_no_other(apart: Apart, service: str) -> None:
    tables = getattr(apart, service).ask("tables")

    assert {table.partition("_")[0] for table in tables} <= {service, "django"}
    assert {f"{service}_{name}" for name in OF_THE_MACHINERY} <= set(tables)


@pytest.mark.parametrize("service", SERVICES)
def test_a_service_has_the_code_of_no_other(apart: Apart, service: str) -> None:
    assert set(getattr(apart, service).ask("imported")) & set(SERVICES) == {service}
