"""The doctor finds what is wrong with an installation, and says what to do."""

import json
from datetime import timedelta
from urllib.parse import urlsplit

import pytest
from django.core.management import call_command
from django.db import connections
from django.db.migrations.recorder import MigrationRecorder
from pytest_django.fixtures import Settings

from choreography.broker import topology
from choreography.broker.embedded.store import Store
from choreography.broker.publisher import connect
from choreography.core import clock
from choreography.core.conf import conf
from choreography.operations import doctor
from choreography.storage.tables import ServiceTables

pytestmark = pytest.mark.django_db(databases="__all__")


def found() -> dict[str, str]:
    return {finding.about: finding.what for finding in doctor.findings()}


def test_queues_without_a_worker_are_found(embedded_broker: Store) -> None:
    assert found() == {
        "orders": "no worker reads it",
        "payments": "no worker reads it",
        "shipping": "no worker reads it",
    }


def test_a_missing_queue_is_found_and_not_declared(embedded_broker: Store) -> None:
    embedded_broker.delete_queue("payments.retry.5s")
    assert found()["payments.retry.5s"] == "the queue is missing"
    assert found()["payments.retry.5s"] == "the queue is missing"


def test_a_queue_that_differs_from_the_code_is_found(embedded_broker: Store) -> None:
    embedded_broker.delete_queue("payments.dead")
    embedded_broker.declare_queue("payments.dead", {"x-message-ttl": 5})
    assert "it differs from the code" in found()["payments.dead"]


def test_missing_and_stale_bindings_are_found(embedded_broker: Store) -> None:
    embedded_broker.unbind("payments", "orders.order_placed.v2")
    embedded_broker.declare_exchange("orders.order_dreamt_of.v1", "fanout")
    embedded_broker.bind("payments", "orders.order_dreamt_of.v1")
    about_payments = [finding.what for finding in doctor.findings() if finding.about == "payments"]
    assert "it is not bound to orders.order_placed.v2" in about_payments
    assert "it is still bound to orders.order_dreamt_of.v1, which no reaction reads" in about_payments


def test_an_event_that_waits_too_long_is_found(embedded_broker: Store) -> None:
    ServiceTables("orders").outbox.create(
        event_id=clock.new_id(),
        event_type="orders.order_placed.v2",
        subject="a subject",
        sequence=1,
        body="{}",
        announced_at=clock.now() - timedelta(minutes=5),
    )
    assert found()["orders outbox"].startswith("1 event(s) wait, the oldest for 300")


def test_parked_dead_letters_are_found(embedded_broker: Store) -> None:
    ServiceTables("shipping").dead_letters.create(key="k", error="Unusable", message="m", body=b"?")
    assert found()["shipping dead letters"] == "1 parked"


def test_missing_migrations_are_found(embedded_broker: Store) -> None:
    MigrationRecorder(connections["payments"]).record_unapplied("payments", "0001_initial")
    [finding] = [each for each in doctor.findings() if "migrations" in each.what]
    assert (finding.about, finding.what) == ("payments", "its database lacks migrations: payments.0001_initial")
    assert finding.remedy == "run manage.py migrate --database payments"


def test_where_nothing_is_declared_each_service_is_named_once(embedded_broker: Store) -> None:
    with connect() as connection:
        topology.delete(connection)
    assert found() == dict.fromkeys(conf().services, "all its queues are missing")


def test_a_broker_that_is_down_is_found(settings: Settings) -> None:
    settings.CHOREOGRAPHY = settings.CHOREOGRAPHY | {"BROKER_URL": "amqp://guest:guest@127.0.0.1:1//"}
    assert found()["broker"].startswith("it can't be reached")


@pytest.mark.rabbitmq
def test_a_wrong_password_is_found(settings: Settings, rabbitmq_url: str) -> None:
    address = urlsplit(rabbitmq_url).netloc.rpartition("@")[2]
    settings.CHOREOGRAPHY = settings.CHOREOGRAPHY | {"BROKER_URL": f"amqp://guest:wrong@{address}//"}
    [finding] = [each for each in doctor.findings() if each.about == "broker"]
    assert finding.what.startswith("it refuses: ACCESS_REFUSED")
    assert finding.remedy == "check the account in BROKER_URL, and its permissions"


@pytest.mark.rabbitmq
def test_a_real_broker_is_examined_too(settings: Settings, rabbitmq_url: str, namespace: str) -> None:
    settings.CHOREOGRAPHY = settings.CHOREOGRAPHY | {"BROKER_URL": rabbitmq_url, "NAMESPACE": namespace}
    assert {service: found()[f"{namespace}{service}"] for service in conf().services} == dict.fromkeys(
        conf().services, "all its queues are missing"
    )
    with connect() as connection:
        topology.declare(connection)
        try:
            assert found() == {f"{namespace}{service}": "no worker reads it" for service in conf().services}
        finally:
            topology.delete(connection)


def test_the_command_fails_and_prints_json_when_something_is_wrong(
    embedded_broker: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stopped:
        call_command("choreography", "doctor", "--json")
    assert stopped.value.code == 1
    assert {row["about"] for row in json.loads(capsys.readouterr().out)} == {"orders", "payments", "shipping"}
