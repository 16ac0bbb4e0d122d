"""What has changed between two sets of contracts, in words, how grave it is, and which reaction it breaks.

Whether one schema's documents satisfy another, jsoncompat decides. What is here says what the change is called, and who
reads the field.
"""

import json
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import jsoncompat

from choreography.core.errors import ContractError
from choreography.core.git import git
from choreography.events.readers import Reader
from choreography.events.schemas import ContractField, Schema, fields_of

Level = Literal["breaking", "risky", "safe"]

#: From the gravest.
LEVELS: tuple[Level, ...] = ("breaking", "risky", "safe")

#: Keywords that bound a value from below and from above.
_LOWER = ("minimum", "exclusiveMinimum", "minLength", "minItems", "minProperties")
_UPPER = ("maximum", "exclusiveMaximum", "maxLength", "maxItems", "maxProperties")
#: Keywords that say nothing about which documents are valid, and are compared by themselves or not at all.
_WORDS = ("title", "description", "default", "examples", "unit", "personal", "searchable", "deprecated")
#: Keywords that are compared by themselves, or field by field.
_HANDLED = (*_LOWER, *_UPPER, *_WORDS, "type", "enum", "const", "format", "pattern", "properties", "required", "items")


@dataclass(frozen=True)
class Change:
    """One difference between two contracts of an event."""

    event_type: str
    field: str
    """``lines[].sku``; empty for the event itself."""
    kind: str
    level: Level
    what: str
    remedy: str = ""
    breaks: tuple[str, ...] = ()
    """Reactions that can't read the new contract, and could read the old one."""

    def __str__(self) -> str:
        about = f"{self.event_type} {self.field}".strip()
        broken = f" It breaks {', '.join(self.breaks)}." if self.breaks else ""
        remedy = f" {self.remedy}." if self.remedy else ""
        return f"{self.level}: {about}: {self.what}.{broken}{remedy}"


def compare(old: Mapping[str, Schema], new: Mapping[str, Schema], readers: Sequence[Reader] = ()) -> list[Change]:
    """All changes, the gravest first.

    Args:
        old: JSON Schema by event type, as it was published.
        new: and as it is now.
        readers: who reads what, of whatever service.
    """
    found: list[Change] = []
    for event_type in sorted({*old, *new}):
        of_event = [reader for reader in readers if reader.event_type == event_type]
        if event_type not in new:
            found.append(_gone(event_type, of_event))
        elif event_type not in old:
            found.append(Change(event_type, "", "event added", "safe", "it is announced from now on"))
        else:
            changes = [*_changes(event_type, old[event_type], new[event_type], of_event)]
            found += _with_broken(event_type, changes, old[event_type], new[event_type], of_event)
    announced = {event_type.partition(".")[0] for event_type in new}
    for reader in readers:
        if reader.is_subscribed and reader.event_type not in {*old, *new} and _service(reader.event_type) in announced:
            what = f"{reader.reaction} reads it, and nobody announces it"
            remedy = "Check its name and version"
            found.append(Change(reader.event_type, "", "event missing", "breaking", what, remedy, (reader.reaction,)))
    return in_order(found)


def in_order(changes: Iterable[Change]) -> list[Change]:
    """The gravest first."""
    return sorted(changes, key=lambda change: (LEVELS.index(change.level), change.event_type, change.field))


def contracts_at(folder: Path, ref: str) -> dict[str, Schema]:
    """The contracts that were committed in a folder at a commit, branch or tag of git.

    Raises:
        ContractError: there is no such commit, or the folder is in no repository.
    """
    if ref.startswith("-"):
        raise ContractError(f"{ref} is no commit, branch or tag")
    about, folder_of = f"the contracts of {ref}", ("-C", str(folder))
    names = git(*folder_of, "ls-tree", "--name-only", ref, "./", about=about).splitlines()
    return {
        name.removesuffix(".json"): json.loads(git(*folder_of, "show", f"{ref}:./{name}", about=about))
        for name in names
        if name.endswith(".json")
    }


def in_markdown(changes: Sequence[Change]) -> str:
    """A table for a merge request."""
    if not changes:
        return "No contract has changed.\n"
    lines = ["| | event | field | change | breaks | what to do |", "|---|---|---|---|---|---|"]
    for it in changes:
        cells = (it.level, f"`{it.event_type}`", it.field and f"`{it.field}`", it.what, ", ".join(it.breaks), it.remedy)
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(lines) + "\n"


# One event


def _gone(event_type: str, readers: Sequence[Reader]) -> Change:
    names = tuple(sorted({reader.reaction for reader in readers if reader.is_subscribed}))
    remedy = "Announce it until nobody reads it: contracts retire-check says who does" if names else ""
    level: Level = "breaking" if names else "risky"
    return Change(event_type, "", "event gone", level, "it is announced no more", remedy, names)


def _changes(event_type: str, old: Schema, new: Schema, readers: Sequence[Reader]) -> Iterator[Change]:
    if old.get("description") != new.get("description"):
        yield Change(event_type, "", "meaning", "risky", "its description has changed", _SAY)
    before, after = dict(fields_of(old, old)), dict(fields_of(new, new))
    others = {path for path in {*before} & {*after} if _type(before[path]) != _type(after[path])}
    removed = [path for path in before if path not in after and _is_in_place(path, after, others)]
    added = [path for path in after if path not in before and _is_in_place(path, before, others)]
    for path in removed:
        renamed = next((other for other in added if _is_renamed(before[path], after[other], path, other)), None)
        if renamed is not None:
            added.remove(renamed)
            what = f"it was renamed to {renamed}"
            yield Change(event_type, path, "field renamed", "breaking", what, _NEW_VERSION)
        else:
            yield _removed(event_type, path, before[path], readers)
    for path in added:
        if after[path].required:
            what = "a required field was added, which older messages lack"
            yield Change(event_type, path, "field added", "risky", what, "Make it optional")
        else:
            yield Change(event_type, path, "field added", "safe", "an optional field was added")
    for path in sorted({*before} & {*after}):
        for kind, level, what, remedy in _differences(before[path], after[path]):
            yield Change(event_type, path, kind, level, what, remedy)


_NEW_VERSION = "Announce a new version beside this one"
_SAY = "If its meaning or unit is another, announce a new version"

_Difference = tuple[str, Level, str, str]


def _removed(event_type: str, path: str, field: ContractField, readers: Sequence[Reader]) -> Change:
    if field.required:
        return Change(event_type, path, "field removed", "breaking", "a required field was removed", _NEW_VERSION)
    names = sorted({reader.reaction for reader in readers if path in dict(fields_of(reader.schema, reader.schema))})
    if names:
        what = f"an optional field was removed, which {', '.join(names)} would miss"
        return Change(event_type, path, "field removed", "risky", what, _NEW_VERSION)
    return Change(event_type, path, "field removed", "safe", "an optional field was removed, which nobody known reads")


def _differences(old: ContractField, new: ContractField) -> Iterator[_Difference]:
    if old.required and not new.required:
        yield "made optional", "breaking", "it may be missing now", _NEW_VERSION
    if new.required and not old.required:
        yield "made required", "safe", "it is always there now", ""
    if new.nullable and not old.nullable:
        yield "made nullable", "breaking", "it may be null now", _NEW_VERSION
    if old.nullable and not new.nullable:
        yield "made not nullable", "safe", "it is never null now", ""
    yield from _about_words(old.schema, new.schema)
    if old.schema.get("type") != new.schema.get("type"):
        yield from _about_type(old.schema, new.schema)
        return
    yield from _about_values(old.schema, new.schema)
    yield from _about_text(old.schema, new.schema)
    yield from _about_bounds(old.schema, new.schema)
    before, after = (_rest(schema) for schema in (old.schema, new.schema))
    if before != after:
        if satisfies(after, before):
            yield "narrowed", "safe", "it was narrowed", ""
        else:
            yield "changed", "breaking", "its values may be others than before", _NEW_VERSION


def _about_words(old: Schema, new: Schema) -> Iterator[_Difference]:
    if old.get("unit") != new.get("unit"):
        yield "unit", "risky", f"its unit was {old.get('unit')} and is {new.get('unit')}", _NEW_VERSION
    if old.get("description") != new.get("description"):
        yield "meaning", "risky", "its description has changed", _SAY
    if bool(old.get("personal")) != bool(new.get("personal")):
        is_personal = "personal" if new.get("personal") else "not personal any more"
        yield "personal", "risky", f"it is {is_personal}", "Tell readers, who show or store it"


def _about_type(old: Schema, new: Schema) -> Iterator[_Difference]:
    what = f"its type was {_named(old)} and is {_named(new)}"
    if satisfies(_rest(new, keep=("type",)), _rest(old, keep=("type",))):
        yield "narrowed", "safe", what, ""
    else:
        yield "retyped", "breaking", what, _NEW_VERSION


def _about_values(old: Schema, new: Schema) -> Iterator[_Difference]:
    before, after = _values(old), _values(new)
    if before == after:
        return
    if before is None:
        yield "values narrowed", "safe", "it takes only some values now", ""
    elif after is None:
        yield "values widened", "risky", "it takes any value now", "Readers must expect values they do not know"
    else:
        more, less = sorted(map(str, after - before)), sorted(map(str, before - after))
        if more:
            what = f"it may also be {', '.join(more)}"
            yield "values widened", "risky", what, "Readers must expect values they do not know"
        if less:
            yield "values narrowed", "safe", f"it is never {', '.join(less)} any more", ""


def _about_text(old: Schema, new: Schema) -> Iterator[_Difference]:
    before, after = old.get("format"), new.get("format")
    if before != after:
        if before is None:
            yield "format", "safe", f"it has the format {after} now", ""
        elif after is None:
            yield "format", "risky", f"it has no longer the format {before}", _NEW_VERSION
        else:
            yield "format", "breaking", f"its format was {before} and is {after}", _NEW_VERSION
    before, after = old.get("pattern"), new.get("pattern")
    if before != after:
        if before is None:
            yield "pattern", "safe", "it has a pattern now", ""
        else:
            yield "pattern", "risky", "its pattern has changed", "See whether every reader takes it"


def _about_bounds(old: Schema, new: Schema) -> Iterator[_Difference]:
    widened: list[str] = []
    narrowed: list[str] = []
    for keyword in (*_LOWER, *_UPPER):
        before, after = old.get(keyword), new.get(keyword)
        if before == after:
            continue
        is_wider = after is None or (before is not None and (after < before) == (keyword in _LOWER))
        said = f"{keyword} was {_shown(before)} and is {_shown(after)}"
        (widened if is_wider else narrowed).append(said)
    if widened:
        yield "range widened", "risky", "; ".join(widened), "See whether every reader takes it"
    if narrowed:
        yield "range narrowed", "safe", "; ".join(narrowed), ""


# Who breaks


def _with_broken(
    event_type: str, changes: Sequence[Change], old: Schema, new: Schema, readers: Sequence[Reader]
) -> list[Change]:
    """The changes, with the reactions they break. Whatever a change was thought to be, it is breaking then."""
    found = [*changes]
    for reader in readers:
        for name in unmet(reader.schema, new):
            is_only_missed = name not in new.get("properties", {}) and name not in reader.schema.get("required", ())
            if is_only_missed or name in unmet(reader.schema, old):
                continue
            told = False
            for index, change in enumerate(found):
                if _top(change.field) == name and change.level != "safe":
                    found[index] = replace(change, level="breaking", breaks=(*change.breaks, reader.reaction))
                    told = True
            if not told:
                what, remedy = f"{reader.reaction} can't read it any more", _NEW_VERSION
                found.append(Change(event_type, name, "unreadable", "breaking", what, remedy, (reader.reaction,)))
    return found


def unmet(wanted: Schema, given: Schema) -> list[str]:
    """The top-level fields of what a reader wants that documents of ``given`` need not have as it wants them."""
    found = []
    for name, field in wanted.get("properties", {}).items():
        required = [name] if name in wanted.get("required", ()) else []
        one = {"type": "object", "properties": {name: field}, "required": required, "$defs": wanted.get("$defs", {})}
        if not satisfies(given, one):
            found.append(name)
    return found


def satisfies(new: Schema, old: Schema) -> bool:
    """Is every document of ``new`` one of ``old`` as well?"""
    return jsoncompat.check_compat(json.dumps(old), json.dumps(new), "serializer")


# Schemas


def _rest(schema: Schema, keep: Sequence[str] = ()) -> dict[str, Any]:
    return {name: value for name, value in schema.items() if name in keep or name not in _HANDLED}


def _is_renamed(old: ContractField, new: ContractField, path: str, other: str) -> bool:
    plain = [
        {name: it for name, it in field.schema.items() if name not in ("title", "description")} for field in (old, new)
    ]
    return plain[0] == plain[1] and old.required == new.required and _parent(path) == _parent(other)


def _values(schema: Schema) -> set[Any] | None:
    if "const" in schema:
        return {schema["const"]}
    return {*schema["enum"]} if "enum" in schema else None


def _parent(path: str) -> str:
    """What a field is in: ``lines[]`` of ``lines[].sku``, ``lines`` of ``lines[]``; empty at the top."""
    return path.removesuffix("[]") if path.endswith("[]") else path.rpartition(".")[0]


def _is_in_place(path: str, fields: Mapping[str, ContractField], retyped: Collection[str]) -> bool:
    """What it is in is there, and of the same type. Else it is removed or added with that."""
    return not _parent(path) or (_parent(path) in fields and _parent(path) not in retyped)


def _type(field: ContractField) -> Any:
    return field.schema.get("type")


def _top(path: str) -> str:
    return path.partition(".")[0].partition("[")[0]


def _named(schema: Schema) -> str:
    return str(schema.get("type", "one of several"))


def _shown(bound: Any) -> str:
    return "none" if bound is None else str(bound)


def _service(event_type: str) -> str:
    return event_type.partition(".")[0]
