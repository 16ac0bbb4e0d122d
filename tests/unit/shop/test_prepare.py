"""``manage.py prepare``: everything is there afterwards, once, however often and by however many it is run."""

import json
import os
import sqlite3
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from django.contrib.auth import get_user_model
from kombu import Queue
from pytest_django.fixtures import Settings

from choreography.broker import topology
from choreography.broker.embedded.transport import open_store
from choreography.broker.publisher import connect
from orders.models import Product
from shop.preparation import CannotPrepare, admin_password_file, declare_topology, flower_password, prepare
from shop.samples import CATALOGUE
from tests.launched import environment_in, manage

User = get_user_model()
database = pytest.mark.django_db(databases="__all__")
processes = pytest.mark.processes


@pytest.fixture
def broker(settings: Settings, data_dir: Path) -> str:
    """A broker of the test's own."""
    url = f"embedded://{data_dir}/broker.sqlite3"
    settings.CHOREOGRAPHY = settings.CHOREOGRAPHY | {"BROKER_URL": url}
    return url


@pytest.fixture(autouse=True)
def no_accounts_given(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever this machine's environment says of accounts."""
    for name in ("ADMIN_USER", "ADMIN_PASSWORD", "FLOWER_PASSWORD"):
        monkeypatch.delenv(name, raising=False)


@database
def test_the_first_time_there_are_an_administrator_products_and_queues(broker: str) -> None:
    prepared = prepare()

    assert prepared.admin_password
    assert get_user_model().objects.get(username="admin").check_password(prepared.admin_password)
    assert prepared.products_added == Product.objects.count() == len(CATALOGUE)
    assert {product.currency for product in Product.objects.all()} == {"EUR", "USD", "KRW"}
    assert {"orders", "payments", "shipping"} <= {queue.name for queue in open_store(broker).queues()}


@database
def test_the_password_is_kept_where_only_its_owner_can_read_it(broker: str) -> None:
    prepared = prepare()

    assert admin_password_file().read_text().strip() == prepared.admin_password
    assert admin_password_file().stat().st_mode & 0o777 == 0o600


@database
def test_no_two_installations_get_the_same_password(broker: str) -> None:
    first = prepare().admin_password
    User.objects.all().delete()

    assert prepare().admin_password != first


@database
def test_the_second_time_nothing_changes(broker: str) -> None:
    prepare()
    kept = admin_password_file().read_text()
    Product.objects.filter(sku="CUP").delete()

    prepared = prepare()

    assert prepared.admin_password is None
    assert prepared.products_added == 0
    assert admin_password_file().read_text() == kept
    assert User.objects.count() == 1
    assert not Product.objects.filter(sku="CUP").exists()


@database
def test_an_administrator_that_is_there_already_is_left_alone(broker: str) -> None:
    User.objects.create_superuser("chief", password="as it was")

    assert prepare().admin_password is None
    assert not admin_password_file().exists()
    assert get_user_model().objects.get(username="chief").check_password("as it was")


@database
@pytest.mark.parametrize(
    ("password", "why"),
    [("x3!", "This password is too short."), ("password123", "This password is too common.")],
)
def test_production_refuses_a_password_that_anybody_would_guess(
    broker: str, settings: Settings, monkeypatch: pytest.MonkeyPatch, password: str, why: str
) -> None:
    monkeypatch.setenv("ADMIN_PASSWORD", password)

    with pytest.raises(CannotPrepare, match=rf"^ADMIN_PASSWORD is refused: {why}") as refused:
        prepare()

    assert password not in str(refused.value)
    assert not User.objects.exists()

    settings.DEBUG = True
    prepare()
    assert User.objects.get().check_password(password)


@database
def test_a_password_that_was_given_is_neither_told_nor_kept(broker: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ADMIN_USER", "chief")
    monkeypatch.setenv("ADMIN_PASSWORD", "chosen by a person")

    assert prepare().admin_password is None
    assert get_user_model().objects.get(username="chief").check_password("chosen by a person")
    assert not admin_password_file().exists()


@database
def test_an_account_of_that_name_without_rights_is_not_given_any(broker: str) -> None:
    User.objects.create_user("admin")

    with pytest.raises(CannotPrepare, match="Set ADMIN_USER to another name"):
        prepare()
    assert not User.objects.filter(is_superuser=True).exists()


def test_flowers_password_is_made_up_once(data_dir: Path) -> None:
    assert flower_password() == flower_password()
    assert (data_dir / "flower-password").stat().st_mode & 0o777 == 0o600


def test_flowers_password_can_be_given(data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLOWER_PASSWORD", "chosen")

    assert flower_password() == "chosen"
    assert not (data_dir / "flower-password").exists()


@processes
def test_each_sqlite_file_gets_the_tables_of_its_service_and_a_second_run_changes_nothing(tmp_path: Path) -> None:
    environment = environment_in(tmp_path)

    first = json.loads(manage("prepare", "--json", environment=environment).stdout)
    second = json.loads(manage("prepare", "--json", environment=environment).stdout)

    assert first["admin_password"]
    assert (second["admin_password"], second["products_added"]) == (None, 0)
    assert "orders_order" in tables(tmp_path / "var" / "orders.sqlite3")
    assert "payments_payment" in tables(tmp_path / "var" / "payments.sqlite3")
    assert "shipping_shipment" in tables(tmp_path / "var" / "shipping.sqlite3")
    assert "auth_user" not in tables(tmp_path / "var" / "orders.sqlite3")
    assert "orders_order" not in tables(tmp_path / "var" / "accounts.sqlite3")


@processes
@pytest.mark.parametrize("where", ["sqlite", pytest.param("postgresql", marks=pytest.mark.postgresql)])
def test_two_at_once_make_one_administrator(where: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    one = environment_in(tmp_path / "one")
    other = dict(one)
    if where == "postgresql":  # as on two machines
        database_url = request.getfixturevalue("postgresql_database")
        one |= {"DATABASE_URL": database_url}
        other = environment_in(tmp_path / "other", DATABASE_URL=database_url)

    results = at_once(one, other)

    passwords = [result["admin_password"] for result in results if result["admin_password"]]
    added = [result["products_added"] for result in results]
    assert len(passwords) == 1
    assert sorted(added) == [0, len(CATALOGUE)]


@processes
@pytest.mark.parametrize(
    ("variables", "complaint"),
    [
        (
            {"BROKER_URL": "amqp://bob:sesame@127.0.0.1:1//"},
            "The broker at amqp://bob:**@127.0.0.1:1// can't be reached: [Errno 111] Connection refused. "
            "Start it, or check BROKER_URL.",
        ),
        ({"DATABASE_URL": "postgres://bob:sesame@127.0.0.1:1/shop"}, "Check DATABASE_URL."),
        ({"PAYMENTS_DATABASE_URL": "postgres://bob:sesame@127.0.0.1:1/shop"}, "Check PAYMENTS_DATABASE_URL."),
    ],
)
def test_what_is_down_is_named_in_one_line_without_a_password(
    variables: dict[str, str], complaint: str, tmp_path: Path
) -> None:
    result = manage("prepare", "--wait", "0", environment=environment_in(tmp_path, **variables))

    assert result.returncode == 1
    assert len(result.stderr.splitlines()) == 1
    assert complaint in result.stderr
    assert "sesame" not in result.stderr


@pytest.mark.rabbitmq
def test_what_the_broker_refuses_is_told_at_once_with_the_remedy(
    settings: Settings, rabbitmq_url: str, namespace: str
) -> None:
    settings.CHOREOGRAPHY = settings.CHOREOGRAPHY | {"BROKER_URL": rabbitmq_url, "NAMESPACE": namespace}
    with connect() as connection, connection.channel() as channel:
        of_another_kind = Queue(topology.queue_name("payments"), channel=channel, durable=True)
        of_another_kind.declare()
        try:
            with pytest.raises(CannotPrepare, match="Empty and remove the queues that an earlier version made"):
                declare_topology(wait=float("inf"))
        finally:
            topology.delete(connection)


def at_once(*environments: Mapping[str, str]) -> list[dict[str, Any]]:
    """Run ``prepare`` in each environment at the same time. Returns what each reports."""
    with ThreadPoolExecutor(len(environments)) as pool:
        done = list(pool.map(lambda environment: manage("prepare", "--json", environment=environment), environments))
    assert [each.returncode for each in done] == [os.EX_OK] * len(done), done
    return [json.loads(each.stdout) for each in done]


def tables(file: Path) -> set[str]:
    with closing(sqlite3.connect(file)) as connection:
        return {name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
