"""What a change of a contract is called, how grave it is, and whom it breaks: a table, and then the command."""

import json
import shutil
import subprocess
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
from django.core.management import CommandError, call_command
from pytest_django.fixtures import Settings

from choreography.core.conf import conf
from choreography.core.errors import ContractError
from choreography.events.changes import Change, compare, contracts_at, in_markdown
from choreography.events.readers import Reader

EVENT = "orders.order_parked.v1"
OLD: dict[str, Any] = {
    "type": "object",
    "description": "An order waits.",
    "properties": {
        "order": {"type": "string", "description": "its id"},
        "amount": {"type": "integer", "minimum": 0, "maximum": 100, "description": "in minor units"},
        "state": {"type": "string", "enum": ["open", "closed"], "description": "how it stands"},
        "code": {"type": "string", "pattern": "^[A-Z]+$", "minLength": 2, "maxLength": 5, "description": "why"},
        "at": {"type": "string", "format": "date-time", "description": "when"},
        "note": {"type": "string", "default": "", "description": "what was said"},
        "gift": {"anyOf": [{"type": "string"}, {"type": "null"}], "default": None, "description": "for whom"},
        "lines": {"type": "array", "minItems": 1, "items": {"$ref": "#/$defs/Line"}, "description": "what"},
        "weight": {"type": "number", "unit": "kg", "description": "how heavy"},
        "kind": {"const": "parcel", "description": "what it is"},
    },
    "required": ["order", "amount", "state", "code", "at", "gift", "lines", "weight", "kind"],
    "$defs": {
        "Line": {
            "type": "object",
            "properties": {
                "sku": {"type": "string", "description": "which"},
                "quantity": {"type": "integer", "minimum": 1, "description": "how many"},
                "hint": {"type": "string", "description": "for the picker"},
            },
            "required": ["sku", "quantity"],
        }
    },
}


def reader(name: str, properties: dict[str, Any], required: tuple[str, ...] = ()) -> Reader:
    schema = {"type": "object", "properties": properties, "required": [*(required or properties)]}
    return Reader(name.partition(".")[0], name, EVENT, schema, True)


READERS = [
    reader("billing.charge", {"amount": {"type": "integer", "maximum": 100}}),
    reader("desk.show", {"state": {"type": "string"}, "note": {"type": "string", "default": ""}}, ("state",)),
    reader("gate.open", {"kind": {"const": "parcel"}}),
    reader(
        "stock.pick",
        {
            "lines": {
                "type": "array",
                "items": {
                    "type": "object",
                    "properties": {"sku": {"type": "string"}, "quantity": {"type": "integer"}},
                    "required": ["sku", "quantity"],
                },
            }
        },
    ),
]

DROP = object()


def changed(changes: dict[str, Any]) -> dict[str, Any]:
    """The contract with other values at these paths: ``properties.amount.type``."""
    new = deepcopy(OLD)
    for path, value in changes.items():
        at: Any = new
        *way, last = path.split(".")
        for step in way:
            at = at[step]
        if value is DROP:
            del at[last]
        else:
            at[last] = value
    return new


def without(*names: str) -> list[str]:
    return [name for name in OLD["required"] if name not in names]


P, L = "properties", "$defs.Line.properties"
TEXT = {"type": "string", "description": "new"}

#: A change, and the verdict: level, kind, field, and the reactions it breaks.
VERDICTS: dict[str, tuple[dict[str, Any], tuple[str, str, str, list[str]]]] = {
    # Fields come and go
    "an optional field more": ({f"{P}.colour": TEXT}, ("safe", "field added", "colour", [])),
    "a required field more": (
        {f"{P}.colour": TEXT, "required": [*OLD["required"], "colour"]},
        ("risky", "field added", "colour", []),
    ),
    "an optional field more, deep inside": ({f"{L}.colour": TEXT}, ("safe", "field added", "lines[].colour", [])),
    "a required field more, deep inside": (
        {f"{L}.colour": TEXT, "$defs.Line.required": ["sku", "quantity", "colour"]},
        ("risky", "field added", "lines[].colour", []),
    ),
    "a required field less, which nobody reads": (
        {f"{P}.order": DROP, "required": without("order")},
        ("breaking", "field removed", "order", []),
    ),
    "a required field less, which somebody reads": (
        {f"{P}.amount": DROP, "required": without("amount")},
        ("breaking", "field removed", "amount", ["billing.charge"]),
    ),
    "an optional field less, which nobody reads": ({f"{L}.hint": DROP}, ("safe", "field removed", "lines[].hint", [])),
    "an optional field less, which somebody reads": ({f"{P}.note": DROP}, ("risky", "field removed", "note", [])),
    "a field less, deep inside": (
        {f"{L}.sku": DROP, "$defs.Line.required": ["quantity"]},
        ("breaking", "field removed", "lines[].sku", ["stock.pick"]),
    ),
    "another name": (
        {f"{P}.order": DROP, f"{P}.order_id": OLD[P]["order"], "required": [*without("order"), "order_id"]},
        ("breaking", "field renamed", "order", []),
    ),
    "another name of what is read": (
        {f"{P}.amount": DROP, f"{P}.total": OLD[P]["amount"], "required": [*without("amount"), "total"]},
        ("breaking", "field renamed", "amount", ["billing.charge"]),
    ),
    "another name, deep inside": (
        {
            f"{L}.sku": DROP,
            f"{L}.article": OLD["$defs"]["Line"][P]["sku"],
            "$defs.Line.required": ["article", "quantity"],
        },
        ("breaking", "field renamed", "lines[].sku", ["stock.pick"]),
    ),
    # Types
    "a number becomes text": (
        {f"{P}.amount": {"type": "string", "description": "in minor units"}},
        ("breaking", "retyped", "amount", ["billing.charge"]),
    ),
    "text becomes a number, which nobody reads": ({f"{P}.order.type": "integer"}, ("breaking", "retyped", "order", [])),
    "a whole number becomes any": (
        {f"{L}.quantity.type": "number"},
        ("breaking", "retyped", "lines[].quantity", ["stock.pick"]),
    ),
    "any number becomes a whole one": ({f"{P}.weight.type": "integer"}, ("safe", "narrowed", "weight", [])),
    "a list becomes one": (
        {f"{P}.lines": {"type": "string", "description": "what"}},
        ("breaking", "retyped", "lines", ["stock.pick"]),
    ),
    "items of another type": (
        {f"{P}.lines.items": {"type": "string"}},
        ("breaking", "retyped", "lines[]", ["stock.pick"]),
    ),
    # There or not
    "required becomes optional": ({"required": without("order")}, ("breaking", "made optional", "order", [])),
    "required becomes optional, and is read": (
        {"required": without("state")},
        ("breaking", "made optional", "state", ["desk.show"]),
    ),
    "optional becomes required": ({"required": [*OLD["required"], "note"]}, ("safe", "made required", "note", [])),
    "it may be null": (
        {f"{P}.order": {"anyOf": [{"type": "string"}, {"type": "null"}], "description": "its id"}},
        ("breaking", "made nullable", "order", []),
    ),
    "it may be null, and is read": (
        {f"{P}.state": {"anyOf": [OLD[P]["state"], {"type": "null"}], "description": "how it stands"}},
        ("breaking", "made nullable", "state", ["desk.show"]),
    ),
    "it is never null": (
        {f"{P}.gift": {"type": "string", "default": None, "description": "for whom"}},
        ("safe", "made not nullable", "gift", []),
    ),
    # Values
    "one value more": ({f"{P}.state.enum": ["open", "closed", "lost"]}, ("risky", "values widened", "state", [])),
    "one value less": ({f"{P}.state.enum": ["open"]}, ("safe", "values narrowed", "state", [])),
    "any value": ({f"{P}.state.enum": DROP}, ("risky", "values widened", "state", [])),
    "only some values": ({f"{P}.order.enum": ["a", "b"]}, ("safe", "values narrowed", "order", [])),
    "a constant gets another value": (
        {f"{P}.kind.const": "pallet"},
        ("breaking", "values widened", "kind", ["gate.open"]),
    ),
    "a constant may be another": (
        {f"{P}.kind": {"enum": ["parcel", "pallet"], "description": "what it is"}},
        ("breaking", "values widened", "kind", ["gate.open"]),
    ),
    # Ranges
    "a higher maximum, beyond what is read": (
        {f"{P}.amount.maximum": 1000},
        ("breaking", "range widened", "amount", ["billing.charge"]),
    ),
    "a lower maximum": ({f"{P}.amount.maximum": 50}, ("safe", "range narrowed", "amount", [])),
    "a lower minimum": ({f"{P}.amount.minimum": -5}, ("risky", "range widened", "amount", [])),
    "a higher minimum": ({f"{P}.amount.minimum": 5}, ("safe", "range narrowed", "amount", [])),
    "no minimum": ({f"{P}.amount.minimum": DROP}, ("risky", "range widened", "amount", [])),
    "a maximum": ({f"{L}.quantity.maximum": 9}, ("safe", "range narrowed", "lines[].quantity", [])),
    "longer text": ({f"{P}.code.maxLength": 9}, ("risky", "range widened", "code", [])),
    "shorter text": ({f"{P}.code.maxLength": 4}, ("safe", "range narrowed", "code", [])),
    "empty text": ({f"{P}.code.minLength": 0}, ("risky", "range widened", "code", [])),
    "an empty list": ({f"{P}.lines.minItems": 0}, ("risky", "range widened", "lines", [])),
    "no empty list": ({f"{P}.lines.minItems": 2}, ("safe", "range narrowed", "lines", [])),
    # Formats
    "another format": ({f"{P}.at.format": "date"}, ("breaking", "format", "at", [])),
    "no format": ({f"{P}.at.format": DROP}, ("risky", "format", "at", [])),
    "a format": ({f"{P}.order.format": "uuid"}, ("safe", "format", "order", [])),
    "another pattern": ({f"{P}.code.pattern": "^[a-z]+$"}, ("risky", "pattern", "code", [])),
    "no pattern": ({f"{P}.code.pattern": DROP}, ("risky", "pattern", "code", [])),
    "a pattern": ({f"{P}.order.pattern": "^[0-9]+$"}, ("safe", "pattern", "order", [])),
    # Words
    "another unit": ({f"{P}.weight.unit": "g"}, ("risky", "unit", "weight", [])),
    "another description": ({f"{P}.amount.description": "in whole euros"}, ("risky", "meaning", "amount", [])),
    "another description of the event": ({"description": "An order is over."}, ("risky", "meaning", "", [])),
    "it is personal": ({f"{P}.order.personal": True}, ("risky", "personal", "order", [])),
}


@pytest.mark.parametrize("name", VERDICTS)
def test_the_verdict_on_a_change(name: str) -> None:
    changes, verdict = VERDICTS[name]

    found = compare({EVENT: OLD}, {EVENT: changed(changes)}, READERS)

    assert [(it.level, it.kind, it.field, [*it.breaks]) for it in found][:1] == [verdict], found
    assert all(it.level == "safe" for it in found[1:]), found


@pytest.mark.parametrize(
    "changes", [{f"{P}.order.title": "Order"}, {f"{P}.note.default": "-"}, {f"{P}.order.searchable": True}, {}]
)
def test_what_no_reader_can_notice_is_no_change(changes: dict[str, Any]) -> None:
    assert compare({EVENT: OLD}, {EVENT: changed(changes)}, READERS) == []


def test_an_event_that_is_gone_breaks_who_reads_it() -> None:
    [gone] = compare({EVENT: OLD}, {}, READERS)
    [unread] = compare({EVENT: OLD}, {})

    assert (gone.level, gone.kind) == ("breaking", "event gone")
    assert gone.breaks == ("billing.charge", "desk.show", "gate.open", "stock.pick")
    assert unread.level == "risky"


def test_a_new_event_is_safe() -> None:
    [change] = compare({}, {EVENT: OLD})

    assert (change.level, change.kind) == ("safe", "event added")


def test_what_is_read_and_announced_by_nobody_is_named() -> None:
    lost = [READERS[0]._replace(event_type="orders.order_packed.v1")]

    [change] = compare({EVENT: OLD}, {EVENT: OLD}, lost)

    assert str(change) == (
        "breaking: orders.order_packed.v1: billing.charge reads it, and nobody announces it. "
        "It breaks billing.charge. Check its name and version."
    )


def test_a_change_says_what_breaks_and_what_to_do() -> None:
    [change, *_] = compare(
        {EVENT: OLD}, {EVENT: changed({f"{P}.amount": DROP, "required": without("amount")})}, READERS
    )

    assert str(change) == (
        "breaking: orders.order_parked.v1 amount: a required field was removed. It breaks billing.charge. "
        "Announce a new version beside this one."
    )


def test_a_table_for_a_merge_request() -> None:
    changes = [Change(EVENT, "amount", "retyped", "breaking", "a | b", "Do it", ("billing.charge",))]

    assert in_markdown(changes).splitlines()[2] == (
        "| breaking | `orders.order_parked.v1` | `amount` | a \\| b | billing.charge | Do it |"
    )
    assert in_markdown([]) == "No contract has changed.\n"


# The command


@pytest.fixture
def repository(settings: Settings, tmp_path: Path) -> Path:
    """A copy of the contracts in a repository of git, committed as ``before``."""
    shutil.copytree(conf().contracts_dir, tmp_path / "contracts")
    git = ["git", "-C", str(tmp_path), "-c", "user.name=Ada", "-c", "user.email=ada@example.org"]
    for command in (["init", "-q"], ["add", "."], ["commit", "-qm", "Write the contracts"], ["tag", "before"]):
        subprocess.run([*git, *command], check=True)
    settings.CHOREOGRAPHY = settings.CHOREOGRAPHY | {"CONTRACTS_DIR": tmp_path / "contracts"}
    return tmp_path / "contracts"


def commit(folder: Path, tag: str) -> None:
    git = ["git", "-C", str(folder), "-c", "user.name=Ada", "-c", "user.email=ada@example.org"]
    for command in (["commit", "-qam", "Change a contract"], ["tag", tag]):
        subprocess.run([*git, *command], check=True)


def test_nothing_has_changed(repository: Path, capsys: pytest.CaptureFixture[str]) -> None:
    call_command("choreography", "contracts", "check", "--against", "before")

    assert capsys.readouterr().out == ""


def test_a_break_is_told_with_exit_code_1(repository: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = repository / "orders.order_placed.v2.json"
    contract = json.loads(path.read_text())
    contract["properties"]["total"]["type"] = "string"  # as if it had been so, and the code had changed
    path.write_text(json.dumps(contract))
    commit(repository, "text")

    with pytest.raises(SystemExit) as ended:
        call_command("choreography", "contracts", "check", "--against", "text")

    assert ended.value.code == 1
    assert "breaking: orders.order_placed.v2 total: its type was string and is integer" in capsys.readouterr().out


def test_a_program_reads_json_and_a_person_a_table(repository: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = repository / "orders.order_placed.v2.json"
    contract = json.loads(path.read_text())
    del contract["properties"]["customer"]
    contract["required"].remove("customer")
    path.write_text(json.dumps(contract))
    commit(repository, "without")

    call_command("choreography", "contracts", "check", "--against", "without", "--json")
    [change] = json.loads(capsys.readouterr().out)
    call_command("choreography", "contracts", "check", "--against", "without", "--markdown")

    assert (change["level"], change["field"], change["kind"]) == ("risky", "customer", "field added")
    assert "| risky | `orders.order_placed.v2` | `customer` |" in capsys.readouterr().out


@pytest.mark.parametrize("ref", ["nowhere", "--output=/tmp/x"])
def test_a_commit_that_is_none_is_refused(repository: Path, ref: str) -> None:
    with pytest.raises(CommandError, match=ref):
        call_command("choreography", "contracts", "check", f"--against={ref}")
    with pytest.raises(ContractError):
        contracts_at(repository, ref)
