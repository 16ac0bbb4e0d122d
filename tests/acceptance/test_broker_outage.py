"""An outage of the broker or the database delays orders, and costs none: nothing is lost, nothing is parked."""

from collections.abc import Iterator
from dataclasses import dataclass

import pytest
from playwright.sync_api import Browser, expect

from tests.browser import expect_status, fill_in, logged_in, open_web
from tests.processes import RunningShop, eventually, running_shop
from tests.servers import PostgreSQL, RabbitMQ, own_database, own_postgresql, own_rabbitmq, run_sql

pytestmark = [pytest.mark.processes, pytest.mark.slow, pytest.mark.rabbitmq, pytest.mark.postgresql]

RELAYS = ("relay-orders", "relay-payments", "relay-shipping")
PROCESSES = (*RELAYS, "worker-orders", "worker-payments", "worker-shipping", "beat")


@dataclass(frozen=True)
class Site:
    """A shop with servers of its own, to be broken."""

    shop: RunningShop
    broker: RabbitMQ
    database: PostgreSQL

    def place_several(self, count: int = 5) -> list[str]:
        return [self.shop.place() for _ in range(count)]

    def is_completed(self, order: str) -> bool:
        return bool(self.shop.ask("status", order_id=order) == "completed")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with (
        own_rabbitmq() as broker,
        own_postgresql() as database,
        own_database(database.url, "shop") as url,
        running_shop(tmp_path_factory.mktemp("site"), BROKER_URL=broker.url, DATABASE_URL=url) as shop,
    ):
        shop.start(*PROCESSES)
        shop.started(*PROCESSES)
        yield Site(shop, broker, database)


@pytest.fixture(scope="module")
def address(site: Site) -> str:
    return open_web(site.shop)


@pytest.fixture(autouse=True)
def nothing_was_lost_or_parked(site: Site) -> Iterator[None]:
    yield
    assert site.shop.have_ended() == []
    site.shop.wait_until_all_end()
    assert site.shop.ask("broken_promises") == []
    assert site.shop.have_ended() == []


def test_orders_are_placed_while_the_broker_stops_and_starts(site: Site) -> None:
    orders = site.place_several()
    site.broker.stop()
    orders += site.place_several()
    site.broker.start()
    orders += site.place_several()

    eventually(lambda: all(map(site.is_completed, orders)), 120, otherwise=lambda: site.shop.ask("standing"))


def test_orders_survive_a_crash_of_the_broker(site: Site) -> None:
    orders = site.place_several()
    site.broker.kill()
    orders += site.place_several()
    site.broker.start()

    eventually(lambda: all(map(site.is_completed, orders)), 120, otherwise=lambda: site.shop.ask("standing"))


def test_sessions_that_can_not_write_are_given_up_after_a_failover(site: Site) -> None:
    """Each process has sessions from the time when the server took no writes: they stay what they were begun as."""
    order = site.shop.place()
    name = site.shop.environment["DATABASE_URL"].rpartition("/")[2]
    run_sql(site.database.url, f"ALTER DATABASE {name} SET default_transaction_read_only = on")
    run_sql(site.database.url, f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{name}'")
    eventually(lambda: "read-only" in site.shop["relay-orders"].says(), otherwise=site.shop["relay-orders"].says)

    run_sql(site.database.url, f"ALTER DATABASE {name} RESET default_transaction_read_only")

    eventually(lambda: site.is_completed(order), 45, otherwise=lambda: site.shop.ask("standing"))


def test_an_order_placed_without_a_broker_goes_out_when_there_is_one(site: Site) -> None:
    site.broker.stop()
    order = site.shop.place()
    assert site.shop.ask("unpublished", service="orders") == 1

    site.broker.start()

    eventually(lambda: site.shop.ask("unpublished", service="orders") == 0)
    eventually(lambda: site.is_completed(order), 120, otherwise=lambda: site.shop.ask("standing"))


def test_a_person_places_an_order_in_the_admin_without_a_broker(site: Site, browser: Browser, address: str) -> None:
    """The page takes the order as ever, and moves on by itself once there is a broker again."""
    with logged_in(browser, address) as page:
        site.broker.stop()
        fill_in(page)
        page.click("text=Save")
        expect(page.locator(".messagelist")).to_contain_text("is placed.")
        expect_status(page, "placed")
        assert site.shop.ask("unpublished", service="orders") == 1

        site.broker.start()
        expect_status(page, "completed")


def test_a_person_sends_an_order_again_that_the_database_could_not_take(
    site: Site, browser: Browser, address: str
) -> None:
    with logged_in(browser, address) as page:
        email = fill_in(page)
        site.database.stop()
        page.click("text=Save")
        expect(page.locator("h1")).to_have_text("The database can't be used just now")

        site.database.start()
        page.reload()
        expect(page.locator(".messagelist")).to_contain_text("is placed.")
        page.goto(f"/admin/orders/order/?q={email}")
        expect(page.locator("#result_list tbody tr")).to_have_count(1)


def test_orders_in_flight_outlast_a_restart_of_the_database(site: Site) -> None:
    """While it is down nobody can write, not even that something failed."""
    noticed = {relay: site.shop[relay].says().count("relay waits") for relay in RELAYS}
    orders = site.place_several(10)
    site.database.stop()
    eventually(lambda: all(site.shop[relay].says().count("relay waits") > noticed[relay] for relay in RELAYS))
    site.database.start()
    orders += site.place_several()

    eventually(lambda: all(map(site.is_completed, orders)), 120, otherwise=lambda: site.shop.ask("standing"))
