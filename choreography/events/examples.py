"""Golden messages: events as they were really sent or may be, which every reader must be able to read, for ever.

``contracts/examples/orders.order_placed.v2/minimal.json`` is a whole message in structured mode. Each event type has at
least ``minimal``, with the required fields alone, and ``full``, with every field. Others are shapes that older releases
have sent. They are also the examples that people see.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple
from uuid import UUID

import jsoncompat

from choreography.core.conf import conf
from choreography.core.errors import Unusable
from choreography.core.git import git
from choreography.events.changes import Change
from choreography.events.messages import CONTENT_TYPE, Event, parse_type, read_envelope, read_event
from choreography.events.readers import Reader
from choreography.events.schemas import alternatives, breaches
from choreography.events.versions import lift, reaction_of, reads

MINIMAL, FULL = "minimal", "full"

#: Of drafts: any moment and any id would do.
_TIME, _ID = datetime(2026, 1, 1, 12, tzinfo=UTC), UUID("019b7a5e-0000-7000-8000-000000000001")


class Example(NamedTuple):
    """A golden message."""

    event_type: str
    name: str
    body: str


def examples(event_type: str) -> list[Example]:
    """The golden messages of an event type: the minimal one, the full one, then the others by name."""
    found = [Example(event_type, path.stem, path.read_text()) for path in _folder(event_type).glob("*.json")]
    return sorted(found, key=lambda it: (it.name != MINIMAL, it.name != FULL, it.name))


def faults(contracts: Mapping[str, Any], known: Sequence[Reader]) -> Iterator[str]:
    """What is wrong with the golden messages, and who can't read one, each as one line that says what to do.

    Args:
        contracts: JSON Schema by event type.
        known: the readers there are. Those of this process read with their own models.
    """
    for event_type, contract in sorted(contracts.items()):
        found = examples(event_type)
        for name in sorted({MINIMAL, FULL} - {example.name for example in found}):
            yield (
                f"{event_type} has no golden message {name!r}: run manage.py choreography contracts --write, "
                "and give it better values"
            )
        for example in found:
            yield from _faults_of(example, contract, known)
    for folder in sorted((conf().contracts_dir / "examples").glob("*")):
        if folder.name not in contracts and not (conf().contracts_dir / f"{folder.name}.json").exists():
            yield f"examples/{folder.name} has golden messages of an event without a contract: delete them"


def examples_at(folder: Path, ref: str) -> list[Example]:
    """The golden messages that were committed in a folder of contracts at a commit, branch or tag of git.

    Raises:
        ContractError: there is no such commit, or the folder is in no repository.
    """
    about, folder_of = f"the golden messages of {ref}", ("-C", str(folder))
    names = git(*folder_of, "ls-tree", "-r", "--name-only", ref, "./examples/", about=about).splitlines()
    paths = [Path(name) for name in names if name.endswith(".json")]
    return [
        Example(path.parent.name, path.stem, git(*folder_of, "show", f"{ref}:./{path}", about=about)) for path in paths
    ]


def lost(before: Sequence[Example], contracts: Mapping[str, Any], known: Sequence[Reader]) -> Iterator[Change]:
    """Golden messages that are gone or changed, of events that still are: what was sent once must stay readable."""
    for example in before:
        event_type = example.event_type
        if event_type not in contracts or any(_is_same(example, other) for other in examples(event_type)):
            continue
        broken = tuple(sorted({name for name, _ in who_can_not_read(example, known)}))
        what = f"its golden message {example.name} is gone, and such messages were sent"
        remedy = "Keep it under another name"
        yield Change(event_type, "", "golden message gone", "breaking" if broken else "risky", what, remedy, broken)


def _is_same(one: Example, other: Example) -> bool:
    return bool(json.loads(one.body) == json.loads(other.body))


def write(contracts: Mapping[str, Any]) -> list[Path]:
    """Draft the minimal and the full message of each event type that has none. Returns the new files."""
    new = []
    for event_type, contract in contracts.items():
        for name in (MINIMAL, FULL):
            path = _folder(event_type) / f"{name}.json"
            if not path.exists():
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(json.dumps(_draft(event_type, contract, is_full=name == FULL), indent=2) + "\n")
                new.append(path)
    return new


def _folder(event_type: str) -> Path:
    return conf().contracts_dir / "examples" / event_type


def _faults_of(example: Example, contract: Any, known: Sequence[Reader]) -> Iterator[str]:
    about = f"the golden message examples/{example.event_type}/{example.name}.json"
    body = example.body.encode()
    try:
        envelope = read_envelope(body, CONTENT_TYPE, conf().max_body_bytes)
        data = json.loads(body)["data"]
    except (Unusable, KeyError) as error:
        yield f"{about} is no event ({error}): write it as a CloudEvent in structured mode"
        return
    if envelope.type != example.event_type:
        yield f"{about} is of type {envelope.type}: put it into that folder"
        return
    for invalid in breaches(contract, data):
        yield f"{about} does not fit its contract at {invalid.json_path}: {invalid.message}"
    present = set(_optional_fields(contract, contract, data, is_present=True))
    if example.name == MINIMAL and present:
        yield f"{about} has optional fields: leave out {', '.join(sorted(present))}"
    lacking = set(_optional_fields(contract, contract, data, is_present=False)) - present
    if example.name == FULL and lacking:
        yield f"{about} lacks optional fields: add {', '.join(sorted(lacking))}"
    for name, why in who_can_not_read(example, known):
        yield f"{about} can't be read by {name}: {why}"


def who_can_not_read(example: Example, known: Sequence[Reader]) -> Iterator[tuple[str, str]]:
    """Reactions that can't read a golden message, with the reason.

    Those of this process are found by themselves; ``known`` adds those elsewhere.
    """
    here = {*conf().services}
    for service in here:
        reaction = reaction_of(service, example.event_type)
        if reaction is not None:
            try:
                event = read_event(example.body.encode(), reads(reaction, example.event_type))
                lift(reaction, example.event_type, event.data)
            except Exception as error:  # a reader's own functions may raise anything
                yield reaction.name, f"{type(error).__name__}: {error}"
    for reader in known:
        if reader.event_type == example.event_type and reader.service not in here:
            data = json.loads(example.body)["data"]
            for invalid in breaches(reader.schema, data):
                yield reader.reaction, f"{invalid.json_path}: {invalid.message}"


def _optional_fields(schema: Any, root: Any, value: Any, *, is_present: bool, at: str = "") -> Iterator[str]:
    """Paths of optional fields that are there, or are not; in a list, in one of its items."""
    schema = _without_null(schema, root)
    if isinstance(value, dict) and "properties" in schema:
        for name, field in schema["properties"].items():
            path = f"{at}.{name}".lstrip(".")
            if name not in schema.get("required", ()) and (value.get(name) is not None) == is_present:
                yield path
            if value.get(name) is not None:
                yield from _optional_fields(field, root, value[name], is_present=is_present, at=path)
    elif isinstance(value, list) and "items" in schema:
        for item in value:
            yield from _optional_fields(schema["items"], root, item, is_present=is_present, at=f"{at}[]")


def _without_null(schema: Any, root: Any) -> Any:
    """What a value may be that is there: the first of several."""
    kinds = alternatives(schema, root)
    return next((each for each in kinds if each.get("type") != "null"), kinds[0])


def _draft(event_type: str, contract: Any, *, is_full: bool) -> Any:
    service, data = parse_type(event_type).service, _value(contract, contract, is_full)
    event = Event[Any](id=_ID, type=event_type, source=service, subject=str(_ID), time=_TIME, data=data)
    return json.loads(event.to_json())


def _value(schema: Any, root: Any, is_full: bool) -> Any:
    """A value that satisfies a schema, for a person to replace by a likely one."""
    schema = _without_null(schema, root)
    for word in ("const", "default"):
        if schema.get(word):
            return schema[word]
    if "enum" in schema:
        return schema["enum"][0]
    match schema.get("type"):
        case "object" if "properties" in schema:
            wanted = schema["properties"] if is_full else schema.get("required", ())
            return {name: _value(schema["properties"][name], root, is_full) for name in wanted}
        case "object":
            return {"key": _value(schema.get("additionalProperties", {}), root, is_full)}
        case "array":
            return [_value(schema.get("items", {}), root, is_full)] * schema.get("minItems", 1)
        case "string" if "pattern" not in schema and "format" not in schema:
            return schema.get("title", "text").lower().ljust(schema.get("minLength", 0), "-")
        case "integer" | "number":
            return max(schema.get("minimum", 1), 1)
    if schema.get("format") == "date-time":
        return _TIME.isoformat()
    # What is left is small: a text with a pattern, true or false.
    return json.loads(jsoncompat.generate_value(json.dumps(schema)))
