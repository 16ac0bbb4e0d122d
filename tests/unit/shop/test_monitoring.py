"""``/metrics`` and ``/health``: what they say, and to whom."""

import pytest
from django.db import OperationalError, connections
from django.test import Client
from pytest_django.fixtures import Settings

from choreography.core import metrics
from choreography.storage.tables import ServiceTables

pytestmark = pytest.mark.django_db(databases="__all__")


def test_who_is_on_this_machine_may_read_the_metrics(client: Client, data_dir: object) -> None:
    response = client.get("/metrics")

    assert response.status_code == 200
    assert b'choreography_outbox_waiting{service="orders"} 0.0' in response.content


@pytest.mark.parametrize("header", ["X-Forwarded-For", "Forwarded"])
def test_who_comes_through_a_proxy_needs_the_token(client: Client, settings: Settings, header: str) -> None:
    assert client.get("/metrics", headers={header: "192.0.2.1"}).status_code == 401

    settings.METRICS_TOKEN = "a token"
    right = client.get("/metrics", headers={header: "192.0.2.1", "Authorization": "Bearer a token"})
    wrong = client.get("/metrics", headers={header: "192.0.2.1", "Authorization": "Bearer another"})

    assert (right.status_code, wrong.status_code) == (200, 401)


def test_behind_a_proxy_no_address_is_enough(client: Client, settings: Settings) -> None:
    settings.SECURE_PROXY_SSL_HEADER = ("HTTP_X_FORWARDED_PROTO", "https")

    assert client.get("/metrics").status_code == 401


def test_another_address_is_refused(client: Client) -> None:
    assert client.get("/metrics", REMOTE_ADDR="192.0.2.1").status_code == 401


def test_an_empty_token_opens_nothing(client: Client, settings: Settings) -> None:
    settings.METRICS_TOKEN = ""

    assert client.get("/metrics", REMOTE_ADDR="192.0.2.1", headers={"Authorization": "Bearer "}).status_code == 401


def test_gauges_say_what_the_tables_say(client: Client) -> None:
    ServiceTables("payments").dead_letters.create(key="1", error="Bug", message="", body=b"")

    assert b'choreography_dead_letters_parked{service="payments"} 1.0' in client.get("/metrics").content


def test_a_process_that_answers_is_live(client: Client) -> None:
    assert client.get("/health/live").json() == {"live": True}


def test_a_process_whose_databases_answer_is_ready(client: Client) -> None:
    response = client.get("/health/ready")

    assert (response.status_code, response.json()) == (200, {"ready": True, "wrong": []})


def test_a_process_without_its_database_is_not_ready(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    def cursor() -> None:
        raise OperationalError("down")

    monkeypatch.setattr(connections["payments"], "cursor", cursor)

    response = client.get("/health/ready")
    from_elsewhere = client.get("/health/ready", REMOTE_ADDR="192.0.2.1")

    assert response.status_code == from_elsewhere.status_code == 503
    assert "the database payments can't be reached" in response.json()["wrong"]
    assert from_elsewhere.json() == {"ready": False}


def test_what_was_not_started_counts_nothing(data_dir: object) -> None:
    metrics.event_published("orders", "orders.order_placed.v2", 0.1)

    assert metrics.files() == []
