"""Whatever arrives from the broker: the worker lives, the message is kept for a person, the next one is handled."""

import base64
import struct
import uuid
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import pytest

from choreography.events.messages import CONTENT_TYPE
from tests.processes import RunningShop, eventually, running_shop
from tests.servers import a_corner_of_the_servers
from tests.wire import Sender, Wire, event, nested_lists, sender, text

pytestmark = [pytest.mark.processes, pytest.mark.slow]

DELIVERY_LIMIT = 20


@dataclass(frozen=True)
class Counter:
    """Where messages arrive and are looked after: a shop with one worker, for payments."""

    shop: RunningShop
    sender: Sender
    worn_out: bytes

    def dead_letters(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.shop.ask("dead_letters", service="payments")
        return found

    def dead_letter_of(self, body: bytes) -> dict[str, Any]:
        """The dead letter that holds exactly these bytes, once there is one."""
        encoded = base64.b64encode(body).decode()
        return eventually(
            lambda: next((dead_letter for dead_letter in self.dead_letters() if dead_letter["body"] == encoded), {}),
            within=30,
            otherwise=lambda: (self.dead_letters()[-3:], self.shop["worker-payments"].says()[-3000:]),
        )

    def handles(self, document: dict[str, Any], **properties: Any) -> None:
        """Send an event and wait until it has taken effect."""
        self.sender.send_event(document, **properties)
        eventually(
            lambda: document["id"] in self.shop.ask("heard", service="payments"),
            within=30,
            otherwise=lambda: (self.dead_letters()[-3:], self.shop["worker-payments"].says()[-3000:]),
        )


@pytest.fixture(
    scope="module",
    params=["embedded", pytest.param("real", marks=[pytest.mark.rabbitmq, pytest.mark.postgresql])],
)
def counter(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Counter]:
    folder = tmp_path_factory.mktemp(request.param)
    with ExitStack() as stack:
        corner = {} if request.param == "embedded" else stack.enter_context(a_corner_of_the_servers(request))
        shop = stack.enter_context(running_shop(folder, **corner))
        foreigner = stack.enter_context(sender(shop))
        worn_out = text(event())
        foreigner.send(Wire(worn_out))
        for _ in range(DELIVERY_LIMIT + 1):
            eventually(lambda: foreigner.take_and_put_back("payments"))
        shop.start("worker-payments")
        shop.started("worker-payments")
        yield Counter(shop, foreigner, worn_out)


@pytest.fixture(autouse=True)
def the_worker_lives_and_goes_on(counter: Counter) -> Iterator[None]:
    before = counter.shop["worker-payments"].pid
    yield
    counter.handles(event())
    assert counter.shop["worker-payments"].lives
    assert counter.shop["worker-payments"].pid == before


NOT_EVENTS = {
    "not JSON": b"{not json",
    "no text": b"\x80\x81\xfe\xff",
    "empty": b"",
    "null": b"null",
    "a list": b"[]",
    "JSON, no CloudEvent": b'{"hello": "you"}',
    "nested without end": b"[" * 100_000,
    "over the size": b'"' + b"x" * 300_000 + b'"',
    "another specversion": text(event(specversion="0.3")),
    "no id": text(event(id=None)),
    "an id that is no text": text(event(id=42)),
    "no subject": text(event(subject=None)),
}


@pytest.mark.parametrize("body", NOT_EVENTS.values(), ids=NOT_EVENTS.keys())
def test_a_message_that_is_no_event_is_kept(counter: Counter, body: bytes) -> None:
    counter.sender.send(Wire(body))

    dead_letter = counter.dead_letter_of(body)
    assert dead_letter["error"] == "Unusable"
    assert dead_letter["state"] == "parked"


UNUSABLE_EVENTS = {
    "no data": (event(data=None), "data"),
    "a field is missing": (event(data={"payment_token": "tok_approved", "currency": "EUR"}), "data.total"),
    "a field is mistyped": (event(data={"payment_token": "t", "total": "much", "currency": "EUR"}), "data.total"),
    "an unknown type": (event("orders.never_heard_of.v1"), "no reaction"),
    "a version nobody reads": (event("orders.order_placed.v9"), "no reaction"),
    "a type with a NUL": (event("orders.\0.v1"), "no reaction"),
    "a type without end": (event("x" * 5000), "no reaction"),
}


@pytest.mark.parametrize(("document", "reason"), UNUSABLE_EVENTS.values(), ids=UNUSABLE_EVENTS.keys())
def test_an_event_that_can_not_be_read_is_kept_with_the_reason(
    counter: Counter, document: dict[str, Any], reason: str
) -> None:
    counter.sender.send(Wire(text(document)))

    assert reason in counter.dead_letter_of(text(document))["message"]


def test_an_event_about_an_order_nobody_knows_is_kept(counter: Counter) -> None:
    dispatched = event("shipping.shipment_dispatched.v1", data={"parcel": "p1"})
    counter.sender.send_event(dispatched)

    assert counter.dead_letter_of(text(dispatched))["error"] == "NothingHeld"


CONTENT_TYPES = [None, "", "application/json", "text/plain", "application/x-python-serialize", "a\0b", "x" * 250]


@pytest.mark.parametrize("content_type", CONTENT_TYPES)
def test_an_event_of_another_content_type_is_kept(counter: Counter, content_type: str | None) -> None:
    body = text(event())
    counter.sender.send(Wire(body, content_type=content_type))

    assert "content type" in counter.dead_letter_of(body)["message"]


CELERYS_HEADERS = {
    "task": "payments.authorize_payment",
    "id": "1",
    "lang": "py",
    "root_id": "1",
    "parent_id": None,
    "group": None,
}
FORGED_HEADERS: dict[str, dict[str, Any]] = {
    "a task of ours": CELERYS_HEADERS,
    "a task without an id": {"task": "payments.authorize_payment"},
    "a timer's task": {"task": "payments.purge_old_events", "id": "1"},
    "a task that is no text": {"task": 42, "id": [1]},
    "no such task": {"task": "os.system", "id": "1"},
    "a packed delivery": CELERYS_HEADERS | {"choreography": {"service": "orders"}},
    "compressed, it says": {"compression": "application/x-gzip"},
    "compressed, nobody knows how": {"compression": 7},
}


@pytest.mark.parametrize("headers", FORGED_HEADERS.values(), ids=FORGED_HEADERS.keys())
def test_celerys_own_headers_make_no_task_of_a_message(counter: Counter, headers: dict[str, Any]) -> None:
    body = text([[str(uuid.uuid4())], {}, {"callbacks": None, "errbacks": None, "chain": None, "chord": None}])
    counter.sender.send(Wire(body, headers=headers))

    assert counter.dead_letter_of(body)["error"] == "Unusable"


@pytest.mark.parametrize("headers", FORGED_HEADERS.values(), ids=FORGED_HEADERS.keys())
def test_an_event_is_handled_as_one_whatever_celery_reads_in_its_headers(
    counter: Counter, headers: dict[str, Any]
) -> None:
    counter.handles(event(), headers=headers)


def test_an_older_kind_of_celery_message_is_kept(counter: Counter) -> None:
    body = text({"task": "payments.authorize_payment", "id": str(uuid.uuid4()), "args": [], "kwargs": {}})
    counter.sender.send(Wire(body, content_type="application/json", content_encoding="utf-8"))

    assert counter.dead_letter_of(body)["error"] == "Unusable"


HISTORIES: dict[str, dict[str, Any]] = {
    "no number": {"x-choreography-attempts": "many"},
    "below zero": {
        "x-choreography-attempts": -99,
        "x-choreography-waits": -99,
        "x-choreography-first-seen": "2026-01-01T00:00:00+00:00",
    },
    "a time without a zone": {
        "x-choreography-attempts": 1,
        "x-choreography-waits": 1,
        "x-choreography-first-seen": "2026-01-01T00:00:00",
    },
    "a dead letter that is no text": {"x-choreography-dead-letter": 42},
    "a dead letter without end": {"x-choreography-dead-letter": "x" * 5000},
    "a dead letter with a NUL": {"x-choreography-dead-letter": "\0"},
    "a NUL": {"a\0key": ["a\0value"]},
    "bytes": {"bytes": b"\xff\x00"},
    "a death that is none": {"x-death": "rubbish"},
    "deaths that are none": {"x-death": [1, 2]},
    "a count that is none": {"x-delivery-count": "rubbish", "x-first-death-reason": 7},
}


@pytest.mark.parametrize("headers", HISTORIES.values(), ids=HISTORIES.keys())
def test_a_message_is_kept_whatever_history_it_claims(counter: Counter, headers: dict[str, Any]) -> None:
    body = text(event(data={}))
    counter.sender.send(Wire(body, headers=headers))

    assert counter.dead_letter_of(body)["state"] == "parked"


@pytest.mark.parametrize("headers", HISTORIES.values(), ids=HISTORIES.keys())
def test_an_event_is_handled_whatever_history_it_claims(counter: Counter, headers: dict[str, Any]) -> None:
    counter.handles(event(), headers=headers)


@pytest.mark.parametrize("headers", HISTORIES.values(), ids=HISTORIES.keys())
def test_a_failing_event_is_kept_whatever_history_it_claims(counter: Counter, headers: dict[str, Any]) -> None:
    dispatched = event("shipping.shipment_dispatched.v1", data={"parcel": "p1"})
    counter.sender.send_event(dispatched, headers=headers)

    assert counter.dead_letter_of(text(dispatched))["error"] == "NothingHeld"


@pytest.mark.parametrize("headers", HISTORIES.values(), ids=HISTORIES.keys())
def test_a_message_sent_to_the_dead_is_kept_whatever_history_it_claims(
    counter: Counter, headers: dict[str, Any]
) -> None:
    body = text(event())
    counter.sender.send(Wire(body, exchange="payments.dlx", headers=headers))

    assert "gave it up" in counter.dead_letter_of(body)["message"]


@pytest.mark.parametrize("encoding", ["latin-1", "utf-16", "utf-99", "base64", "binary"])
@pytest.mark.parametrize("body", ["é {}".encode("latin-1"), "é {}".encode(), "é {}".encode("utf-16")])
def test_the_bytes_are_kept_whatever_encoding_they_claim(counter: Counter, encoding: str, body: bytes) -> None:
    body += uuid.uuid4().bytes
    counter.sender.send(Wire(body, content_encoding=encoding))

    counter.dead_letter_of(body)


TICK = {"task": "payments.purge_old_events", "id": "1"}
BAD_TICKS = {
    "no JSON": Wire(b"garbage 1", headers=TICK),
    "pickle": Wire(b"garbage 2", content_type="application/x-python-serialize", headers=TICK),
    "not three parts": Wire(b'["garbage 3"]', headers=TICK),
    "a number": Wire(b"44", headers=TICK),
    "compressed, it says": Wire(b"garbage 5", headers=TICK | {"compression": "application/x-gzip"}),
    "a time that is none": Wire(text([["garbage 6"], {}, {}]), headers=TICK | {"eta": "garbage"}),
    "an end that is none": Wire(text([["garbage 7"], {}, {}]), headers=TICK | {"expires": "garbage"}),
    "an id that is none": Wire(text([["garbage 8"], {}, {}]), headers={"task": "payments.purge_old_events", "id": [1]}),
    "no task of a timer": Wire(text([["garbage 9"], {}, {}]), headers={"task": "payments.nothing", "id": "1"}),
}


@pytest.mark.parametrize("tick", BAD_TICKS.values(), ids=BAD_TICKS.keys())
def test_what_celery_itself_refuses_is_kept(counter: Counter, tick: Wire) -> None:
    content_type = "application/json" if tick.content_type == CONTENT_TYPE else tick.content_type
    counter.sender.send(
        Wire(tick.body, "payments.timers", "payments", content_type, content_encoding="utf-8", headers=tick.headers)
    )

    counter.dead_letter_of(tick.body)


def test_what_the_broker_gave_up_is_kept_with_the_reason(counter: Counter) -> None:
    assert "delivery_limit" in counter.dead_letter_of(counter.worn_out)["message"]


def short(value: bytes) -> bytes:
    return struct.pack("B", len(value)) + value


def long(value: bytes) -> bytes:
    return struct.pack(">I", len(value)) + value


#: AMQP's field types, with values that a decoder may stumble over. What is cut off, not a number or infinite, RabbitMQ
#: itself refuses.
FIELDS = {
    "a time in milliseconds": b"T" + struct.pack(">Q", 1_700_000_000_000),
    "the largest time": b"T" + b"\xff" * 8,
    "the largest unsigned number": b"l" + b"\xff" * 8,
    "the smallest number": b"L" + b"\x80" + b"\x00" * 7,
    "a decimal of the largest scale": b"D" + b"\xff" * 5,
    "a truth of another value": b"t\x7f",
    "a text that is not UTF-8": b"S" + struct.pack(">I", 2) + b"\xff\xfe",
    "a text with a NUL": b"S" + struct.pack(">I", 3) + b"a\x00b",
    "bytes": b"x" + struct.pack(">I", 3) + b"\xff\x00\xfe",
    "nothing": b"V",
    "lists in lists": nested_lists(3000),
    "an empty table": b"F" + struct.pack(">I", 0),
    "a key that is not UTF-8": b"F" + struct.pack(">I", 4) + b"\x02\xff\xfeV",
}
#: The properties that are short texts, by their flag.
SHORT_TEXTS = {
    "content_type": 0x8000,
    "content_encoding": 0x4000,
    "correlation_id": 0x0400,
    "reply_to": 0x0200,
    "expiration": 0x0100,
    "message_id": 0x0080,
    "type": 0x0020,
    "app_id": 0x0008,
    "cluster_id": 0x0004,
}


def test_no_property_and_no_header_that_amqp_can_carry_ends_the_worker(counter: Counter) -> None:
    """Each message takes effect or is kept, whole; the worker that has them all is the one from the start."""
    if not counter.shop.environment["BROKER_URL"].startswith("amqp"):
        pytest.skip("the embedded broker has no such fields")
    sent: dict[str, dict[str, Any]] = {}
    for name, value in FIELDS.items():
        headers = b"\x03odd" + value
        properties = struct.pack(">H", 0x8000 | 0x2000) + short(CONTENT_TYPE.encode()) + long(headers)
        counter.sender.send_raw(text(document := event()), properties)
        sent[name] = document
    for name, flag in SHORT_TEXTS.items():
        if name == "expiration":  # the broker refuses any but a number
            continue
        values = {0x8000: CONTENT_TYPE.encode()} | {flag: b"\xff\xfe"}
        texts = b"".join(short(values[bit]) for bit in sorted(values, reverse=True))
        counter.sender.send_raw(text(document := event()), struct.pack(">H", sum(values)) + texts)
        sent[name] = document
    counter.sender.send_raw(text(document := event()), struct.pack(">H", 0x0040) + struct.pack(">Q", 2**63))
    sent["timestamp"] = document

    def missing() -> list[str]:
        heard = counter.shop.ask("heard", service="payments")
        kept = {dead_letter["body"] for dead_letter in counter.dead_letters()}
        return [
            name
            for name, document in sent.items()
            if document["id"] not in heard and base64.b64encode(text(document)).decode() not in kept
        ]

    eventually(
        lambda: not missing(), within=60, otherwise=lambda: (missing(), counter.shop["worker-payments"].says()[-3000:])
    )
    assert sent["lists in lists"]["id"] in counter.shop.ask("heard", service="payments"), (
        "headers make nothing unusable"
    )


def test_a_header_key_that_is_not_utf8_does_not_keep_a_failing_event_from_being_retried(counter: Counter) -> None:
    if not counter.shop.environment["BROKER_URL"].startswith("amqp"):
        pytest.skip("the embedded broker has no such fields")
    document = event(data={"payment_token": "tok_fails_twice", "total": 1999, "currency": "EUR"})
    properties = struct.pack(">H", 0x8000 | 0x2000) + short(CONTENT_TYPE.encode()) + long(b"\x02\xff\xfeV")

    counter.sender.send_raw(text(document), properties)

    eventually(lambda: document["id"] in counter.shop.ask("heard", service="payments"), within=60)


def test_headers_as_large_as_a_frame_end_as_a_dead_letter(counter: Counter) -> None:
    """With the history of a retry they would not fit into a frame any more."""
    body = text(event(data={"payment_token": "tok_fails_twice", "total": 1999, "currency": "EUR"}))

    counter.sender.send(Wire(body, headers={"note": "x" * 130_900}))

    assert "more than the 32768 allowed" in counter.dead_letter_of(body)["message"]


def test_a_rung_that_was_deleted_is_declared_again(counter: Counter) -> None:
    document = event(data={"payment_token": "tok_fails_twice", "total": 1999, "currency": "EUR"})
    for rung in ("1s", "5s"):
        counter.sender.delete_queue(f"payments.retry.{rung}")

    counter.sender.send_event(document)

    eventually(lambda: document["id"] in counter.shop.ask("heard", service="payments"), within=60)
