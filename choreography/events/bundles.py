"""Contracts and golden messages in one file, against which another repository checks what it reads."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from choreography.core.errors import ContractError
from choreography.events import compatibility, examples
from choreography.events.changes import unmet
from choreography.events.messages import parse_type
from choreography.events.readers import readers_here


def bundle() -> dict[str, Any]:
    """Each event by its type: its contract as JSON Schema, and its golden messages by name."""
    return {
        "events": {
            event_type: {
                "schema": contract,
                "examples": {each.name: json.loads(each.body) for each in examples.examples(event_type)},
            }
            for event_type, contract in sorted(compatibility.current().items())
        }
    }


def faults(path: Path) -> Iterator[str]:
    """What the services of this process read and do not get, according to a bundle of others. One line each.

    Raises:
        ContractError: the file is no bundle.
    """
    try:
        events = json.loads(path.read_text())["events"]
        announcers = {parse_type(event_type).service for event_type in events}
        golden = {
            event_type: [examples.Example(event_type, name, json.dumps(it)) for name, it in each["examples"].items()]
            for event_type, each in events.items()
        }
        schemas = {event_type: each["schema"] for event_type, each in events.items()}
    except (ContractError, OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ContractError(
            f"{path} is no bundle of contracts ({type(error).__name__}: {error}): "
            "write it with manage.py choreography contracts export"
        ) from None
    for reader in readers_here():
        event_type = reader.event_type
        if event_type in schemas:
            if missing := unmet(reader.schema, schemas[event_type]):
                yield f"{event_type} breaks {reader.reaction}: {', '.join(missing)}"
            for example in golden[event_type]:
                for name, why in examples.who_can_not_read(example, [reader]):
                    if name == reader.reaction:
                        yield f"the golden message {example.name} of {event_type} can't be read by {name}: {why}"
        elif reader.is_subscribed and parse_type(event_type).service in announcers:
            yield f"{reader.reaction} reads {event_type}, which nobody announces: check its name and version"
