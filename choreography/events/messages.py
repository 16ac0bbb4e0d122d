"""What an event is: the publisher's contract, a reader's smaller view of it, and the envelope on the wire.

The wire format is CloudEvents 1.0 in structured JSON mode (https://github.com/cloudevents/spec, v1.0.2), with
nothing of Celery in it, so that a program in any language can take part.
"""

import base64
import json
import re
from collections.abc import Iterator, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from typing import Annotated, Any, ClassVar, Generic, Literal, NamedTuple, TypeVar
from uuid import NAMESPACE_URL, UUID, uuid5

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, TypeAdapter, ValidationError
from pydantic_core import from_json, to_json

from choreography.core import clock
from choreography.core.conf import SUBJECT_LENGTH
from choreography.core.errors import ContractError, Unusable

Data = TypeVar("Data", bound=BaseModel)

CONTENT_TYPE = "application/cloudevents+json"
#: Of a message that holds any number of events, in one array.
BATCH_CONTENT_TYPE = "application/cloudevents-batch+json"
#: Events in one message, at most.
_MOST_EVENTS = 10_000
#: Data that services read. What has no content type is JSON (CloudEvents 1.0.2, JSON format, section 3.1).
_JSON = re.compile(r"\s*(application/json|text/json|[^/;\s]+/[^/;\s]+\+json)\s*(;.*)?", re.IGNORECASE | re.DOTALL)
#: Before the names of attributes in headers: of the AMQP binding, and of the one for RabbitMQ
#: (https://github.com/knative-extensions/eventing-rabbitmq, cloudevents-protocol-spec).
_ATTRIBUTE = re.compile(r"(?:cloudevents[:_]|ce-)(?P<name>.*)", re.IGNORECASE | re.DOTALL)

PERSONAL: dict[str, Any] = {"personal": True}
"""Marks a field of an event whose value pages show only to those who may see it, and logs never have:
``Field(..., json_schema_extra=PERSONAL)``."""
SEARCHABLE: dict[str, Any] = {"searchable": True}
"""Marks a field of an event by which people find its flow. A field may be both: ``PERSONAL | SEARCHABLE``."""

#: PostgreSQL can't store NUL in text.
_WITHOUT_NUL = r"^[^\x00]*$"
Subject = Annotated[str, Field(min_length=1, max_length=SUBJECT_LENGTH, pattern=_WITHOUT_NUL)]

Moment = Annotated[AwareDatetime, Field(ge=datetime(1970, 1, 1, tzinfo=UTC), lt=datetime(3000, 1, 1, tzinfo=UTC))]
"""The type of a field that is a time: with an offset, in the years 1970 to 2999. Every database can keep it in UTC."""

#: Of what others write into an envelope, no more is carried on.
Attribute = Annotated[str, Field(min_length=1, max_length=200, pattern=_WITHOUT_NUL)]
Correlation = Annotated[str, Field(max_length=200, pattern=_WITHOUT_NUL)]

_EVENT_TYPE = re.compile(r"(?P<service>[a-z][a-z0-9_]*)\.(?P<name>[a-z][a-z0-9_]*)\.v(?P<version>[1-9][0-9]*)")

#: Every event class of this process by its type, filled as the classes are defined.
published: dict[str, type["Announced"]] = {}


class Announced(BaseModel):
    """Base of what a publisher announces: ``class OrderPlaced(Announced, type="orders.order_placed.v1")``.

    The class is the contract: frozen, every field described, unknown fields refused when it is built. With
    ``for_others=True`` it says that the event is for programs outside: no service has to read it, and it is no step of
    a flow.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    event_type: ClassVar[str]
    service: ClassVar[str]

    def __init_subclass__(cls, *, type: str, for_others: bool = False, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if for_others:
            cls.model_config["json_schema_extra"] = {"for_others": True}
        service = parse_type(type).service
        if type in published:
            raise ContractError(f"{type} is defined twice: {published[type].__qualname__} and {cls.__qualname__}")
        cls.event_type, cls.service = type, service
        published[type] = cls


class Heard(BaseModel):
    """Base of what a reader reads: just the fields it needs. The rest of the event is ignored."""

    model_config = ConfigDict(frozen=True, extra="ignore", strict=True)


class Nothing(Heard):
    """For a reaction to which the fact alone says enough."""


class Event(BaseModel, Generic[Data]):
    """One event as it travels: a CloudEvents envelope around ``data``."""

    model_config = ConfigDict(frozen=True, extra="ignore", strict=True)

    specversion: Literal["1.0"] = "1.0"
    id: UUID = Field(description="UUIDv7 of this event; of a foreign event whose id is none, one made of source and id")
    type: str = Field(description="<service>.<event>.v<N>, also the name of the exchange")
    source: str = Field(min_length=1, pattern=_WITHOUT_NUL, description="the service that announced it")
    subject: Subject = Field(description="what it is about: all events of one subject are a flow")
    time: Moment = Field(description="when it became true, UTC")
    datacontenttype: Literal["application/json"] = "application/json"
    correlationid: Correlation = Field(default="", description="the flow: the subject of its first event")
    causationid: Attribute | None = Field(default=None, description="id of the event this one is a reaction to")
    sequence: int | None = Field(default=None, ge=1, description="count per subject and source")
    traceparent: Attribute | None = Field(default=None, description="W3C trace context")
    parentspan: Attribute | None = Field(default=None, description="span of the web request it was announced in")
    hops: int | None = Field(default=None, ge=0, description="how many reactions led to it, one after the other")
    factid: UUID | None = Field(default=None, description="id of the newer version that it is made of")
    data: Data
    published_at: Moment | None = Field(default=None, exclude=True, description="when the relay published it")
    given_id: Attribute | None = Field(default=None, exclude=True, description="the id of a foreign event, if no UUID")

    def to_json(self) -> str:
        return self.model_dump_json(exclude_none=True)


class TypeParts(NamedTuple):
    """What an event type is made of."""

    service: str
    """Who announces it."""
    name: str
    version: int


def parse_type(event_type: str) -> TypeParts:
    """``"orders.order_placed.v1"`` -> ``("orders", "order_placed", 1)``.

    Raises:
        ContractError: it is not of the form ``<service>.<event>.v<N>``.
    """
    match = _EVENT_TYPE.fullmatch(event_type)
    if match is None:
        raise ContractError(f"{event_type!r} is not an event type: write <service>.<event>.v<N>, all lower case")
    return TypeParts(match["service"], match["name"], int(match["version"]))


class Envelope(BaseModel):
    """The part of an envelope that says what it is, readable even where the rest is wrong."""

    model_config = ConfigDict(extra="ignore")

    specversion: Literal["1.0"]
    id: UUID
    factid: UUID | None = None
    type: str
    subject: Subject
    source: str = Field(min_length=1, pattern=_WITHOUT_NUL)
    time: Moment


Identified = TypeVar("Identified", Envelope, Event[Any])


def in_structured_mode(
    body: bytes, content_type: str | None, headers: Mapping[str, Any]
) -> tuple[bytes, str | None, Mapping[str, Any]]:
    """A message with its event in structured mode, if it comes in binary mode; any other unchanged.

    In binary mode the body is the data alone, and the attributes are in headers: ``cloudEvents:type``, or with ``_``
    (CloudEvents AMQP protocol binding 1.0.2, section 3.1), or ``ce-type``.
    """
    attributes = {
        found["name"].lower(): _as_json(found["name"].lower(), value)
        for name, value in headers.items()
        if (found := _ATTRIBUTE.fullmatch(name))
    }
    if "specversion" not in attributes or is_structured(content_type):
        return body, content_type, headers
    event: dict[str, Any] = dict(sorted(attributes.items()))
    if content_type:
        event["datacontenttype"] = content_type
    try:
        event |= {"data": from_json(body)} if body else {}
    except ValueError:
        event["data_base64"] = base64.b64encode(body).decode()
    others = {name: value for name, value in headers.items() if not _ATTRIBUTE.fullmatch(name)}
    try:
        return to_json(event, fallback=str, bytes_mode="base64"), CONTENT_TYPE, others
    except ValueError:  # an attribute that JSON can't hold
        return body, content_type, headers


def _as_json(name: str, value: Any) -> Any:
    """An attribute of a header as JSON has it. A time may be AMQP's own, in milliseconds since 1970 in AMQP 1.0."""
    if name == "time" and isinstance(value, int):
        with suppress(ValueError, OverflowError, OSError):
            return datetime.fromtimestamp(value / 1000, UTC).isoformat()
    if isinstance(value, datetime):
        return (value if value.tzinfo else value.replace(tzinfo=UTC)).isoformat()
    return value


def is_structured(content_type: str | None) -> bool:
    """Whether a body of this type holds a whole event."""
    return _media_type(content_type) == CONTENT_TYPE


def is_batched(content_type: str | None) -> bool:
    """Whether a body of this type holds any number of whole events."""
    return _media_type(content_type) == BATCH_CONTENT_TYPE


def _media_type(content_type: str | None) -> str:
    return (content_type or "").partition(";")[0].strip().lower()


def events_in(body: bytes) -> list[bytes]:
    """The events of a body in JSON batch format, each as it was written. There may be none.

    Whether each is an event is not judged (CloudEvents 1.0.2, JSON format, section 4).

    Raises:
        Unusable: it is no JSON array, or has too many events.
    """
    found: list[bytes] = []
    try:
        text = body.decode().strip(_SPACE)
        at = _after_space(text, 1)
        is_last = text[at] == "]"
        while not is_last:
            _, end = _DECODER.raw_decode(text, at)
            found.append(text[at:end].encode())
            at = _after_space(text, end)
            is_last = text[at] != ","
            if not is_last:
                at = _after_space(text, at + 1)
        is_array = text[0] == "[" and text[at:] == "]"
    except (ValueError, IndexError, RecursionError):
        is_array = False
    if not is_array:
        raise Unusable("the batch is no JSON array of events")
    if len(found) > _MOST_EVENTS:
        raise Unusable(f"the batch has {len(found)} events, more than the {_MOST_EVENTS} allowed")
    return found


_DECODER, _SPACE = json.JSONDecoder(), " \t\n\r"


def _after_space(text: str, at: int) -> int:
    while at < len(text) and text[at] in _SPACE:
        at += 1
    return at


def read_envelope(body: bytes, content_type: str | None, max_bytes: int) -> Envelope:
    """Tell which event a message holds.

    Raises:
        Unusable: too large, of another content type, not JSON or not CloudEvents. Names the fault, never the data.
    """
    if len(body) > max_bytes:
        raise Unusable(f"the body has {len(body)} bytes, more than the {max_bytes} allowed")
    if is_batched(content_type):
        raise Unusable(f"a batch of {len(events_in(body))} events is not one event")
    if not is_structured(content_type):
        raise Unusable(f"the content type is {content_type or 'missing'!r}, not {CONTENT_TYPE!r}")
    return _as_fact(_parse(Envelope, body))


def read_event(body: bytes, reads: type[Data]) -> Event[Data]:
    """Read a whole event with the reader's model of its data.

    Raises:
        Unusable: a field is missing or mistyped, or a text has NUL characters, unless the reader takes any data. Names
            the fields, never their values.
    """
    event: Event[Data] = _parse(Event[reads], body, needs_data=bool(reads.model_fields))  # type: ignore[valid-type]
    if rb"\u0000" in body and reads.model_config.get("extra") != "allow":
        faults = [".".join(("data", *path)) for path in _with_nul(event.data.model_dump())]
        if faults:
            raise Unusable("; ".join(f"{path}: String should have no NUL characters" for path in faults))
    return _as_fact(event)


def _with_nul(value: Any, *at: str) -> Iterator[tuple[str, ...]]:
    """The paths of the texts that have NUL characters."""
    if isinstance(value, str) and "\0" in value:
        yield at
    elif isinstance(value, Mapping):
        for name, each in value.items():
            yield from _with_nul(name, *at)
            yield from _with_nul(each, *at, str(name).replace("\0", ""))
    elif isinstance(value, list | tuple):
        for index, each in enumerate(value):
            yield from _with_nul(each, *at, str(index))


def _as_fact(read: Identified) -> Identified:
    """All versions of a fact have its id here: who hears two of them reacts once."""
    return read if read.factid is None else read.model_copy(update={"id": read.factid})


def family_of(event_type: str) -> str:
    """What all versions of an event have in common: ``orders.order_placed``."""
    return event_type.rpartition(".v")[0]


def _parse(model: type[Data], body: bytes, needs_data: bool = True) -> Data:
    """Read what is written as our own services write it; if that fails, as CloudEvents allows others to write it."""
    try:
        return model.model_validate_json(body)
    except ValidationError as error:
        strict = error
    unreadable = ""
    try:
        given = from_json(body)
        envelope = _as_we_write_it(given)
        if not needs_data and not isinstance(envelope.get("data"), dict):
            envelope["data"] = {}
        unreadable = _why_not_json(given)
        return model.model_validate_json(to_json(envelope))
    except ValidationError as error:
        strict = error
    except (ValueError, TypeError):  # no JSON, or no object: ``strict`` says so
        pass
    faults = [(path_of(fault) or "body", fault["msg"]) for fault in strict.errors(include_input=False)]
    if unreadable and any(path.partition(".")[0] == "data" for path, _ in faults):
        faults = [("data", unreadable), *(fault for fault in faults if fault[0].partition(".")[0] != "data")]
    raise Unusable("; ".join(f"{path}: {why}" for path, why in faults)) from None


def _why_not_json(given: Mapping[str, Any]) -> str:
    """Why the data of a foreign event is not such as services read; empty if it may be."""
    content_type = given.get("datacontenttype")
    if content_type is not None and not (isinstance(content_type, str) and _JSON.fullmatch(content_type)):
        return f"datacontenttype is {str(content_type)[:200]!r}, and only JSON is read"
    if given.get("data_base64") is not None:
        return "it is binary (data_base64), and only JSON is read"
    return ""


def _as_we_write_it(given: Any) -> dict[str, Any]:
    """A foreign envelope, without attributes that nobody needs and that are written otherwise than ours.

    A null attribute is the same as none (CloudEvents 1.0.2, JSON format, section 2.2). An id is any text that is unique
    for its source (section "id"). ``sequence`` is text in the registered extension of that name. ``datacontenttype`` is
    left out: whether the data can be read, its reader decides.

    Raises:
        TypeError: it is no JSON object.
    """
    if not isinstance(given, dict):
        raise TypeError("an envelope is a JSON object")
    envelope = {name: value for name, value in given.items() if value is not None and name != "datacontenttype"}
    for name, allowed in _OPTIONAL.items():
        if name in envelope and not _is_valid(allowed, envelope[name]):
            del envelope[name]
    sequence = given.get("sequence")
    if isinstance(sequence, str) and re.fullmatch(r"[0-9]{1,20}", sequence) and int(sequence):
        envelope["sequence"] = int(sequence)
    if "time" not in envelope:
        envelope["time"] = clock.now().isoformat()
    if _is_valid(_ID, envelope.get("id")) and not _is_valid(_UUID, envelope["id"]):
        envelope["given_id"] = envelope["id"]
        envelope["id"] = str(uuid5(NAMESPACE_URL, f"{envelope.get('source')} {envelope['id']}"))
    return envelope


#: Attributes that no reaction needs, and what they must be to be carried on.
_OPTIONAL: dict[str, TypeAdapter[Any]] = {
    "time": TypeAdapter(Moment),
    "correlationid": TypeAdapter(Correlation),
    "causationid": TypeAdapter(Attribute),
    "sequence": TypeAdapter(Annotated[int, Field(ge=1)]),
    "traceparent": TypeAdapter(Attribute),
    "parentspan": TypeAdapter(Attribute),
    "hops": TypeAdapter(Annotated[int, Field(ge=0)]),
    "factid": TypeAdapter(UUID),
}
_ID, _UUID = TypeAdapter(Attribute), TypeAdapter(UUID)


def _is_valid(allowed: TypeAdapter[Any], value: Any) -> bool:
    try:
        allowed.validate_json(to_json(value), strict=True)
    except ValidationError:
        return False
    return True


def path_of(fault: Mapping[str, Any]) -> str:
    """Where in a document a pydantic fault is: ``data.lines.0.quantity``."""
    return ".".join(str(step) for step in fault["loc"])
