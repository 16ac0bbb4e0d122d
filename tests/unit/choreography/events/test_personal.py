"""What of an event is masked: what its contract marks as personal, and what the contract doesn't know."""

import json
from pathlib import Path
from typing import Any

import pytest
from pytest_django.fixtures import Settings

from choreography.events.personal import marked, masked, masked_message

TYPE = "crm.person_moved.v1"
CONTRACT: dict[str, Any] = {
    "type": "object",
    "$defs": {
        "Address": {
            "type": "object",
            "properties": {"street": {"type": "string", "personal": True}, "country": {"type": "string"}},
        },
        "Phone": {"type": "object", "properties": {"number": {"type": "string"}, "kind": {"type": "string"}}},
    },
    "properties": {
        "number": {"type": "integer"},
        "name": {"type": "string", "personal": True, "searchable": True},
        "nick": {"anyOf": [{"type": "string"}, {"type": "integer"}], "personal": True},
        "to": {"$ref": "#/$defs/Address"},
        "by": {"anyOf": [{"$ref": "#/$defs/Address"}, {"type": "null"}]},
        "past": {"type": "array", "items": {"$ref": "#/$defs/Address"}},
        "phone": {"$ref": "#/$defs/Phone", "personal": True},
        "pair": {"type": "array", "prefixItems": [{"type": "string"}, {"type": "string", "personal": True}]},
        "counts": {"type": "object", "additionalProperties": {"type": "integer"}},
        "size": {"type": ["integer", "null"]},
        "tags": {"type": "array", "items": {"type": "string"}},
    },
}


@pytest.fixture(autouse=True)
def contract(settings: Settings, tmp_path: Path) -> None:
    (tmp_path / f"{TYPE}.json").write_text(json.dumps(CONTRACT))
    settings.CHOREOGRAPHY = settings.CHOREOGRAPHY | {"CONTRACTS_DIR": str(tmp_path)}


@pytest.mark.parametrize(
    ("data", "shown"),
    [
        ({"number": 1}, {"number": 1}),
        ({"name": "Ada"}, {"name": "***"}),
        ({"name": None}, {"name": None}),
        ({"to": {"street": "Main Street", "country": "DE"}}, {"to": {"street": "***", "country": "DE"}}),
        ({"by": {"street": "Main Street", "country": "DE"}}, {"by": {"street": "***", "country": "DE"}}),
        ({"by": None}, {"by": None}),
        ({"past": [{"street": "A", "country": "DE"}, {"street": "B"}]},
         {"past": [{"street": "***", "country": "DE"}, {"street": "***"}]}),
        ({"phone": {"number": "1", "kind": "mobile"}}, {"phone": "***"}),
        ({"pair": ["home", "Ada"]}, {"pair": ["home", "***"]}),
        ({"counts": {"a": 1}}, {"counts": {"a": 1}}),
        ({"tags": ["a"]}, {"tags": ["a"]}),
        # What the contract doesn't know:
        ({"e-mail": "ada@example.org"}, {"e-mail": "***"}),
        ({"to": {"city": "Ulm"}}, {"to": {"city": "***"}}),
        ({"to": "Main Street 1"}, {"to": "***"}),
        ({"past": "Main Street 1"}, {"past": "***"}),
        ({"pair": ["home", "Ada", "Grace"]}, {"pair": ["home", "***", "***"]}),
        ({"number": {"of": "Ada"}}, {"number": {"of": "***"}}),
        ({"number": ["Ada"]}, {"number": ["***"]}),
        ({"number": "Ada"}, {"number": "***"}),
        ({"size": 5}, {"size": 5}),
        ({"size": "Ada"}, {"size": "***"}),
        ({"number": None}, {"number": None}),
        ({"tags": [1]}, {"tags": ["***"]}),
        ("Ada", "***"),
        (["Ada"], ["***"]),
    ],
)  # fmt: skip
def test_personal_data_is_masked(data: Any, shown: Any) -> None:
    assert masked(TYPE, data) == shown


@pytest.mark.parametrize("event_type", ["crm.person_born.v1", "x" * 300, "a\0b", f"examples/../{TYPE}"], ids=ascii)
def test_without_a_contract_all_data_is_masked(event_type: str, tmp_path: Path) -> None:
    (tmp_path / "examples").mkdir()

    assert masked(event_type, {"number": 1}) == "***"


def test_a_message_keeps_all_but_its_data() -> None:
    event = {"id": "1", "type": TYPE, "data": {"number": 1, "name": "Ada"}}

    assert json.loads(masked_message(TYPE, json.dumps(event))) == event | {"data": {"number": 1, "name": "***"}}


@pytest.mark.parametrize(
    "body",
    [
        "Ada",
        "",
        "[" * 100_000,
        '"Ada"',
        '{"name": "Ada"}',
        '{"data_base64": "QWRh"}',
        '{"data": {}, "data_base64": "QWRh"}',
        '{"type": "crm.person_born.v1", "data": {"number": 1}}',
        '[{"data": {"name": "Ada"}}]',
    ],
)
def test_a_message_that_is_no_event_of_the_type_is_masked_whole(body: str) -> None:
    assert masked_message(TYPE, body) == "***"


def test_marked_fields_are_found_where_they_are() -> None:
    assert sorted(marked(TYPE, "personal")) == [
        ("by", "street"), ("name",), ("nick",), ("pair", "[]"), ("past", "[]", "street"), ("phone",), ("to", "street"),
    ]  # fmt: skip
    assert marked(TYPE, "searchable") == (("name",),)
