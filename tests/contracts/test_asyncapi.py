"""The events as an AsyncAPI document: AsyncAPI's own parser takes it, and it says what the code says."""

import json
from collections.abc import Callable
from io import StringIO
from typing import Any

import pytest
from django.core.management import CommandError, call_command
from jsonschema import Draft7Validator
from pytest_django.fixtures import Settings

from choreography.core.conf import conf
from choreography.events.messages import published
from choreography.events.readers import readers_here
from choreography.operations.asyncapi import document

V2 = "orders.order_placed.v2"


def written(*arguments: str) -> Any:
    out = StringIO()
    call_command("choreography", "asyncapi", *arguments, stdout=out)
    return json.loads(out.getvalue())


@pytest.fixture
def all_events() -> Any:
    return document(title="Events", version="1")


@pytest.mark.parametrize("package", ["@asyncapi/parser", "parser-of-eventcatalog"])
def test_the_parser_of_asyncapi_takes_it(package: str, node: Callable[..., str], settings: Settings) -> None:
    settings.CHOREOGRAPHY = settings.CHOREOGRAPHY | {"BROKER_URL": "amqp://shop:secret@broker.example:5673/shop"}
    documents = [
        written("--service", service, "--title", "Shop", "--document-version", "2.1.0")
        for service in ("", *conf().services)
    ]

    read = json.loads(node("validate.mjs", package, given=json.dumps([json.dumps(made) for made in documents])))

    for made, found in zip(documents, read, strict=True):
        assert {it["code"] for it in found["diagnostics"]} <= {"asyncapi-latest-version"}, made["info"]
        assert set(found["operations"]) == set(made["operations"]) != set()
        assert made["info"]["version"] == "2.1.0"


def test_each_event_is_a_channel_that_its_service_sends_and_its_readers_receive(all_events: Any) -> None:
    assert set(all_events["channels"]) == set(published)
    assert all_events["channels"][V2]["bindings"]["amqp"]["exchange"]["type"] == "fanout"
    about = {name for name, it in all_events["operations"].items() if it["channel"]["$ref"].endswith(V2)}
    assert about == {
        f"orders.send.{V2}",
        f"payments.authorize_payment.receive.{V2}",
        f"shipping.plan_shipment.receive.{V2}",
    }
    received = {name for name, it in all_events["operations"].items() if it["action"] == "receive"}
    subscribed = [reader for reader in readers_here() if reader.is_subscribed]
    assert received == {f"{reader.reaction}.receive.{reader.event_type}" for reader in subscribed}


def test_examples_fit_the_payload_they_are_examples_of(all_events: Any) -> None:
    for name, message in all_events["components"]["messages"].items():
        schema = message["payload"] | {"components": all_events["components"]}
        for example in message["examples"]:
            errors = [error.message for error in Draft7Validator(schema).iter_errors(example["payload"])]
            assert errors == [], f"{name} {example['name']}"
        assert not Draft7Validator(schema).is_valid({"data": {}})


def test_personal_fields_are_marked(all_events: Any) -> None:
    name = all_events["components"]["schemas"][f"{V2}.PersonName"]["properties"]["full"]

    assert name["x-personal"] is True
    assert "personal" not in name


def test_of_one_service_it_has_what_it_announces_and_reads() -> None:
    channels = set(written("--service", "payments")["channels"])

    assert V2 in channels
    assert "payments.payment_voided.v1" in channels
    assert "shipping.shipment_failed.v1" not in channels


def test_no_password_of_the_broker_is_in_it(settings: Settings) -> None:
    settings.CHOREOGRAPHY = settings.CHOREOGRAPHY | {"BROKER_URL": "amqps://shop:secret@broker.example/shop"}

    made = written()

    assert made["servers"]["broker"]["host"] == "broker.example:5671"
    assert "secret" not in json.dumps(made)


def test_an_unknown_service_is_refused_with_those_there_are() -> None:
    with pytest.raises(CommandError, match=r"there is no service billing. There are journal, orders, payments, ship"):
        written("--service", "billing")
