"""The events of all services as an AsyncAPI document: https://www.asyncapi.com/docs/reference/specification/v3.0.0

A channel is an event type, which is a fanout exchange of its own. Whoever announces it has an operation that sends, and
each reaction one that receives.
"""

import json
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import urlsplit

from choreography.broker import topology
from choreography.core.conf import conf
from choreography.core.errors import ContractError
from choreography.events import compatibility
from choreography.events.examples import examples
from choreography.events.messages import CONTENT_TYPE, Event, Nothing, parse_type
from choreography.events.readers import Reader, all_readers

#: The version of the AMQP bindings: https://github.com/asyncapi/bindings/tree/master/amqp
_BINDING = "0.3.0"
#: Keywords of ours in the contracts. AsyncAPI wants those of others to begin with ``x-``.
_OURS = ("personal", "searchable", "for_others", "unit")

Document = dict[str, Any]


def document(service: str = "", *, title: str, version: str) -> Document:
    """The whole document, or what concerns one service: what it announces, and what it reads.

    Args:
        service: of this process or of another whose contract or file of readers is committed; empty for all.
        title: of the document.
        version: of the document.

    Raises:
        ContractError: nothing is known of that service.
    """
    contracts, readers = compatibility.current(), [reader for reader in all_readers() if reader.is_subscribed]
    services = sorted(
        {*(parse_type(event_type).service for event_type in contracts), *(reader.service for reader in readers)}
    )
    if service and service not in services:
        raise ContractError(f"there is no service {service}. There are {', '.join(services)}.")
    readers = [reader for reader in readers if service in ("", reader.service)]
    read = {reader.event_type for reader in readers}
    chosen = {
        event_type: contract
        for event_type, contract in sorted(contracts.items())
        if service in ("", parse_type(event_type).service) or event_type in read
    }
    return {
        "asyncapi": "3.0.0",
        "info": {"title": title, "version": version, "description": _about(service)},
        "defaultContentType": CONTENT_TYPE,
        "servers": _servers(),
        "channels": {event_type: _channel(event_type, contract) for event_type, contract in chosen.items()},
        "operations": dict(_operations(service, chosen, readers)),
        "components": {
            "messages": {event_type: _message(event_type, contract) for event_type, contract in chosen.items()},
            "schemas": {"envelope": _envelope()} | _schemas(chosen),
        },
    }


def _about(service: str) -> str:
    whose = f"What {service} announces and reads" if service else "What each service announces, and who reacts to it"
    return (
        f"{whose}. Events are CloudEvents 1.0 in structured JSON mode. Each event type is a fanout exchange; a program "
        "that wants to read it binds a queue of its own."
    )


def _servers() -> Document:
    broker = urlsplit(conf().broker_url)
    if broker.scheme not in ("amqp", "amqps"):
        return {}  # the embedded broker is a file of this machine
    port = broker.port or (5671 if broker.scheme == "amqps" else 5672)
    return {
        "broker": {
            "host": f"{broker.hostname}:{port}",
            "pathname": broker.path or "/",
            "protocol": broker.scheme,
            "protocolVersion": "0.9.1",
            "description": "RabbitMQ",
        }
    }


def _channel(event_type: str, contract: Mapping[str, Any]) -> Document:
    exchange = {
        "name": topology.exchange_name(event_type),
        "type": "fanout",
        "durable": True,
        "autoDelete": False,
        "vhost": "/",
    }
    return {
        "address": topology.exchange_name(event_type),
        "title": event_type,
        "description": contract.get("description", ""),
        "messages": {event_type: {"$ref": f"#/components/messages/{event_type}"}},
        "bindings": {"amqp": {"is": "routingKey", "exchange": exchange, "bindingVersion": _BINDING}},
    }


def _operations(service: str, contracts: Mapping[str, Any], readers: list[Reader]) -> Iterator[tuple[str, Document]]:
    for event_type in contracts:
        announcer = parse_type(event_type).service
        if service in ("", announcer):
            yield (
                f"{announcer}.send.{event_type}",
                _operation("send", event_type, announcer, f"{announcer} announces it")
                | {"bindings": {"amqp": {"deliveryMode": 2, "mandatory": True, "bindingVersion": _BINDING}}},
            )
    for reader in sorted(readers, key=lambda reader: (reader.event_type, reader.reaction)):
        if reader.event_type in contracts:
            yield (
                f"{reader.reaction}.receive.{reader.event_type}",
                _operation("receive", reader.event_type, reader.service, f"{reader.reaction} reacts to it")
                | {
                    "bindings": {"amqp": {"ack": True, "bindingVersion": _BINDING}},
                    "x-queue": topology.queue_name(reader.service),
                    "x-reads": _as_asyncapi(reader.schema, "", {}),
                },
            )


def _operation(action: str, event_type: str, service: str, summary: str) -> Document:
    return {
        "action": action,
        "channel": {"$ref": f"#/channels/{event_type}"},
        "messages": [{"$ref": f"#/channels/{event_type}/messages/{event_type}"}],
        "summary": summary,
        "tags": [{"name": service}],
    }


def _message(event_type: str, contract: Mapping[str, Any]) -> Document:
    envelope = {"$ref": "#/components/schemas/envelope"}
    data = {"$ref": f"#/components/schemas/{event_type}"}
    return {
        "name": event_type,
        "title": event_type,
        "summary": contract.get("description", ""),
        "contentType": CONTENT_TYPE,
        "headers": _headers(),
        "payload": {"allOf": [envelope, {"type": "object", "required": ["data"], "properties": {"data": data}}]},
        "examples": [{"name": example.name, "payload": json.loads(example.body)} for example in examples(event_type)],
    }


def _headers() -> Document:
    """In binary mode attributes are headers. Services read that too, and don't send it."""
    attributes = {
        f"cloudEvents:{name}": {"type": "string", "description": f"in binary mode alone: {schema['description']}"}
        for name, schema in _envelope()["properties"].items()
        if "description" in schema
    }
    published = {"type": "string", "format": "date-time", "description": "when the relay published it"}
    return {"type": "object", "properties": {topology.PUBLISHED: published} | attributes}


def _envelope() -> Document:
    """The attributes of an event, as JSON Schema."""
    schema: Document = Event[Nothing].model_json_schema()
    ours = ("data", "published_at", "given_id")
    properties = {name: _plain(field) for name, field in schema["properties"].items() if name not in ours}
    return {
        "type": "object",
        "title": "CloudEvent",
        "description": "The attributes of an event: CloudEvents 1.0 with extensions",
        "required": [*(name for name in schema["required"] if name not in ours), "specversion"],
        "properties": properties,
    }


def _plain(field: Any) -> Any:
    """Without null: an attribute that is null is not written."""
    plain: Document = {name: value for name, value in field.items() if name not in ("anyOf", "title", "default")}
    for each in field.get("anyOf", ()):
        if each.get("type") != "null":
            plain |= each
    return plain


def _schemas(contracts: Mapping[str, Any]) -> Document:
    """The data of each event, and the parts of it, which have names of their own in the document."""
    found = {}
    for event_type, contract in contracts.items():
        parts = {name: f"#/components/schemas/{event_type}.{name}" for name in contract.get("$defs", {})}
        found[event_type] = _as_asyncapi(contract, event_type, parts)
        for name, part in contract.get("$defs", {}).items():
            found[f"{event_type}.{name}"] = _as_asyncapi(part, event_type, parts)
    return found


def _as_asyncapi(schema: Any, event_type: str, parts: Mapping[str, str]) -> Any:
    """A schema as AsyncAPI takes it. Without ``parts``, references to parts are replaced by them."""
    definitions = schema.get("$defs", {})

    def changed(value: Any) -> Any:
        if isinstance(value, list):
            return [changed(each) for each in value]
        if not isinstance(value, dict):
            return value
        if "$ref" in value:
            name = value["$ref"].rpartition("/")[2]
            reference = {"$ref": parts[name]} if parts else changed(definitions[name])
            described = {key: value[key] for key in ("description",) if key in value}
            return {"allOf": [reference], **described} if described else reference
        return {
            f"x-{key.replace('_', '-')}" if key in _OURS and not isinstance(each, dict) else key: changed(each)
            for key, each in value.items()
            if key not in ("$schema", "$defs")
        }

    return changed(schema)
