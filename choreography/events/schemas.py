"""How a contract's JSON Schema is read: references followed, fields found by their paths.

https://json-schema.org/draft/2020-12/json-schema-core
"""

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from jsonschema import ValidationError

Schema = Mapping[str, Any]


class ContractField(NamedTuple):
    """A field of a contract."""

    schema: Schema
    """With references resolved, and without null."""
    required: bool
    nullable: bool


def resolved(schema: Schema, root: Schema) -> Schema:
    """A schema with its reference followed; what stands beside the reference wins."""
    if "$ref" not in schema:
        return schema
    target = root.get("$defs", {})[schema["$ref"].rpartition("/")[2]]
    return {**resolved(target, root), **{name: value for name, value in schema.items() if name != "$ref"}}


def alternatives(schema: Schema, root: Schema) -> list[Schema]:
    """What a value may be, each with what stands beside ``anyOf``; of a schema without alternatives itself."""
    schema = resolved(schema, root)
    given = [*schema.get("anyOf", ()), *schema.get("oneOf", ())]
    if not given:
        return [schema]
    beside = {name: value for name, value in schema.items() if name not in ("anyOf", "oneOf")}
    return [{**each, **beside} for one in given for each in alternatives(one, root)]


def breaches(schema: Schema, data: Any) -> Iterator["ValidationError"]:
    """Where data is not what a schema allows: each rule that is broken, with its path (``json_path``)."""
    # Imported here, because most processes never check a contract and would only start later.
    from jsonschema import Draft202012Validator

    yield from Draft202012Validator(schema).iter_errors(data)


def fields_of(schema: Schema, root: Schema, path: str = "") -> Iterator[tuple[str, ContractField]]:
    """All fields by their path, parents before what is in them."""
    required = schema.get("required", ())
    for name, given in schema.get("properties", {}).items():
        below = f"{path}.{name}".lstrip(".")
        yield from _field(given, root, below, name in required)


def _field(given: Schema, root: Schema, path: str, required: bool) -> Iterator[tuple[str, ContractField]]:
    found = resolved(given, root)
    kinds = alternatives(given, root)
    others = [each for each in kinds if each.get("type") != "null"]
    if len(others) == 1:
        found = others[0]
    yield path, ContractField(found, required, len(others) < len(kinds))
    yield from fields_of(found, root, path)
    if isinstance(found.get("items"), Mapping):
        yield from _field(found["items"], root, f"{path}[]", True)
