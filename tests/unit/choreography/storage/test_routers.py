"""Every app's rows are in the database of its alias, be it one for all or one each."""

from collections.abc import Callable
from types import SimpleNamespace

import pytest
from django.contrib.auth.models import User

from choreography.storage import routers
from choreography.storage.routers import ServiceRouter, alias_of_app
from orders.models import Order, OrderLine
from payments.models import Payment

Configure = Callable[[dict[str, dict[str, str]]], ServiceRouter]

ALIASES = ("default", "orders", "payments", "shipping")


def database(name: str) -> dict[str, str]:
    return {"ENGINE": "django.db.backends.sqlite3", "NAME": name}


@pytest.fixture
def databases(monkeypatch: pytest.MonkeyPatch) -> Configure:
    """Have the router see these databases. Django itself continues to use its own."""

    def configure(databases: dict[str, dict[str, str]]) -> ServiceRouter:
        monkeypatch.setattr(routers, "settings", SimpleNamespace(DATABASES=databases))
        return ServiceRouter()

    return configure


@pytest.fixture
def separate(databases: Configure) -> ServiceRouter:
    return databases({alias: database(f"{alias}.sqlite3") for alias in ALIASES})


@pytest.fixture
def together(databases: Configure) -> ServiceRouter:
    return databases({alias: database("all.sqlite3") for alias in ALIASES})


def test_a_services_rows_are_under_its_own_alias_and_all_others_in_default(separate: ServiceRouter) -> None:
    assert separate.db_for_read(Order) == separate.db_for_write(Order) == "orders"
    assert separate.db_for_write(Payment) == "payments"
    assert separate.db_for_read(User) == separate.db_for_write(User) == "default"


def test_a_service_without_an_alias_is_in_default(databases: Configure) -> None:
    databases({"default": database("all.sqlite3")})
    assert alias_of_app("orders") == "default"


def test_rows_of_one_app_may_be_related_and_rows_of_two_services_may_not(separate: ServiceRouter) -> None:
    assert separate.allow_relation(Order(), OrderLine())
    assert not separate.allow_relation(Order(), Payment())
    assert not separate.allow_relation(Order(), User())


def test_separate_databases_get_their_own_tables_only(separate: ServiceRouter) -> None:
    apps = ("auth", "orders", "payments", "shipping")
    allowed = {alias: [app for app in apps if separate.allow_migrate(alias, app)] for alias in ALIASES}
    assert allowed == {"default": ["auth"], "orders": ["orders"], "payments": ["payments"], "shipping": ["shipping"]}


def test_in_one_database_whichever_alias_comes_first_creates_all_tables(together: ServiceRouter) -> None:
    for alias in ALIASES:
        assert all(together.allow_migrate(alias, app) for app in ("auth", "orders", "payments", "shipping"))


def test_one_service_in_its_own_database_and_the_others_in_one(databases: Configure) -> None:
    router = databases({alias: database("all") for alias in ALIASES} | {"payments": database("payments")})
    assert not router.allow_migrate("default", "payments")
    assert router.allow_migrate("payments", "payments")
    assert not router.allow_migrate("payments", "orders")
    assert router.allow_migrate("orders", "auth")
