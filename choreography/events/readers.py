"""Who reads which fields of which event: of this process by its code, of others by the files they have committed.

``contracts/readers/payments.json`` has the models of payments' reactions as JSON Schema, field by field, generated from
their ``Heard`` models. So the gate knows the readers that run elsewhere too, and a reader in another language can
write such a file by hand.
"""

import json
import tempfile
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import BaseModel

from choreography.core.conf import conf
from choreography.core.errors import ContractError
from choreography.core.git import git
from choreography.events.messages import family_of, parse_type
from choreography.events.registry import reactions
from choreography.events.versions import reaction_of, reads, upcasts_of

#: Events that the machinery itself announces, for whoever keeps the history of flows.
OF_THE_MACHINERY = ("deliveries_reported", "hour_accounted")


class Reader(NamedTuple):
    """A reaction, and what it reads of an event type."""

    service: str
    reaction: str
    event_type: str
    schema: dict[str, Any]
    """JSON Schema of the fields it reads."""
    is_subscribed: bool
    """It hears the event type. Otherwise it only reads what is left of an older version."""
    takes_batches: bool = True
    """It reads messages that hold several events (``"batches": false`` in its file)."""


def readers_here(services: Sequence[str] | None = None) -> list[Reader]:
    """The readers of this process, or of some of its services.

    Who takes any event, with whatever is in it, is none: no change breaks it, and it does not keep an event from going.
    """
    services = conf().services if services is None else services
    found = []
    for reaction in reactions():
        if reaction.service in services:
            found += [
                Reader(reaction.service, reaction.name, event_type, _schema(reads(reaction, event_type)), True)
                for event_type in reaction.event_types
                if parse_type(event_type).name not in OF_THE_MACHINERY
                and not _takes_anything(reads(reaction, event_type))
            ]
    for service in services:
        for upcast in upcasts_of(service):
            lifting = reaction_of(service, upcast.event_type)
            if lifting is not None and upcast.event_type not in lifting.event_types:
                found.append(Reader(service, lifting.name, upcast.event_type, _schema(upcast.reads), False))
    return found


def all_readers(sources: Sequence[str] = ()) -> list[Reader]:
    """The readers of this process, those that have committed a file, and those that ``sources`` name.

    Args:
        sources: folders with files of readers, or ``<git URL>@<branch or tag>`` of repositories that have them in
            ``contracts/readers``.

    Raises:
        ContractError: a source can't be read.
    """
    found = readers_here()
    here = {*conf().services}
    folders = [_folder()]
    with tempfile.TemporaryDirectory(prefix="readers-") as cloned:
        folders += [_open(source, Path(cloned) / str(number)) for number, source in enumerate(sources)]
        for folder in folders:
            for path in sorted(folder.glob("*.json")):
                found += [reader for reader in _read(path) if reader.service not in here]
    return found


def faults() -> Iterator[str]:
    """Files of services of this process that are out of date, each as one line that says what to do."""
    for service, path in _files():
        if not path.exists() or json.loads(path.read_text()) != _document(service):
            yield (
                f"what {service} reads is not what {path.parent.name}/{path.name} says: "
                "run manage.py choreography contracts --write"
            )


def write() -> list[Path]:
    """Write the file of each service of this process. Returns those that changed."""
    changed = []
    for service, path in _files():
        text = json.dumps(_document(service), indent=2) + "\n"
        if not path.exists() or path.read_text() != text:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
            changed.append(path)
    return changed


def hears_a_newer_version(reader: Reader, readers: Sequence[Reader]) -> bool:
    """Whether the same reaction hears a newer version of the event too."""
    version = parse_type(reader.event_type).version
    return any(
        other.reaction == reader.reaction
        and other.is_subscribed
        and family_of(other.event_type) == family_of(reader.event_type)
        and parse_type(other.event_type).version > version
        for other in readers
    )


def _files() -> Iterator[tuple[str, Path]]:
    for service in conf().services:
        if readers_here([service]):
            yield service, _folder() / f"{service}.json"


def _folder() -> Path:
    return conf().contracts_dir / "readers"


def _takes_anything(model: type[BaseModel]) -> bool:
    return not model.model_fields and model.model_config.get("extra") == "allow"


@cache
def _schema(model: Any) -> dict[str, Any]:
    schema: dict[str, Any] = model.model_json_schema()
    return schema


def _document(service: str) -> dict[str, Any]:
    """Reactions with the same model of several events have it once."""
    by_model: dict[str, dict[str, Any]] = {}
    for reader in readers_here([service]):
        key = f"{reader.reaction} {reader.is_subscribed} {json.dumps(reader.schema, sort_keys=True)}"
        entry = by_model.setdefault(
            key,
            {
                "reaction": reader.reaction,
                "event_types": [],
                "subscribed": reader.is_subscribed,
                "schema": reader.schema,
            },
        )
        entry["event_types"].append(reader.event_type)
    return {"service": service, "reads": [by_model[key] for key in sorted(by_model)]}


def _read(path: Path) -> Iterator[Reader]:
    try:
        document = json.loads(path.read_text())
        service = str(document["service"])
        for entry in document["reads"]:
            for event_type in entry["event_types"]:
                parse_type(event_type)
                yield Reader(
                    service,
                    str(entry["reaction"]),
                    event_type,
                    entry["schema"],
                    bool(entry.get("subscribed", True)),
                    bool(entry.get("batches", True)),
                )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ContractError(
            f"{path} is no file of readers ({type(error).__name__}: {error}): "
            'write {"service": ..., "reads": [{"reaction": ..., "event_types": [...], "schema": {...}}]}'
        ) from None


def _open(source: str, clone: Path) -> Path:
    """The folder of a source, which is cloned if it is a repository."""
    path = Path(source)
    if path.is_dir():
        inside = path / "contracts" / "readers"
        return inside if inside.is_dir() else path
    url, at, ref = source.rpartition("@")
    if not at or not ref or ref.startswith("-") or url.startswith("-"):
        raise ContractError(f"{source} is neither a folder nor <git URL>@<branch or tag>")
    git("clone", "--quiet", "--depth", "1", "--branch", ref, "--", url, str(clone), about=source)
    return clone / "contracts" / "readers"
