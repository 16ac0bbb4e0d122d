"""Whatever foreign programs send, every message ends, and everybody can look at what became of it."""

import json
from collections.abc import Iterator
from copy import deepcopy
from random import Random
from typing import Any
from urllib.parse import quote
from uuid import UUID

import pytest
from django.conf import settings as project
from django.contrib.auth.models import User
from django.test import Client

from choreography.broker.topology import Waiting
from choreography.core.conf import conf
from choreography.events.versions import reaction_of
from choreography.storage.tables import ServiceTables
from journal import culprits
from journal.models import Flow
from journal.services import PAGE
from tests.shop_in_a_box import Shop

MESSAGES = 250

pytestmark = pytest.mark.slow

TEXTS = (
    "", " ", "\0", "a\0b", "\ud800", "\r\n", "x" * 201, "x" * 5000, "\u202e\U0001f98a", "<script>", "{{ 7 }}",
    "%s %(x)s", "../x", "a/b?c=#d", "x.json", "-1", "1e400", "2026-13-01", "tok_declined",
)  # fmt: skip
TIMES = (
    "0001-01-01T00:00:00+14:00", "1969-12-31T23:59:59Z", "1970-01-01T00:00:00+14:00", "2026-01-01T00:00:00",
    "2999-12-31T23:59:59Z", "9999-12-31T23:59:59-12:00",
)  # fmt: skip
NUMBERS = (0, -1, 1.5, 2**31, 2**63, 2**64, 10**400, float("nan"), float("inf"))
OTHERS: tuple[Any, ...] = (None, True, [], {}, [[]], {"": {"a": [None, "\0"]}})
ODD = (*TEXTS, *TIMES, *NUMBERS, *OTHERS)
ATTRIBUTES = ("causationid", "correlationid", "sequence", "traceparent", "data_base64", "time", "more", "\0")


@pytest.fixture(autouse=True)
def queues(monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker looks after each queue, and nothing waits."""
    monkeypatch.setattr(culprits, "look_at_queue", lambda _: Waiting(0, 1))


@pytest.fixture
def somebody(client: Client) -> Client:
    """Someone who may do everything."""
    client.force_login(User.objects.create_superuser("somebody"))
    return client


@pytest.mark.parametrize("seed", range(2))
def test_whatever_arrives_ends_and_can_be_looked_at(shop: Shop, somebody: Client, seed: int) -> None:
    order = shop.place()
    _send(shop, Random(seed))

    assert shop.status(order) == "completed", "a sound message beside them did not take effect"
    assert Flow.objects.count() > PAGE, "hardly any message was sound enough to get far"
    for url in _pages():
        response = somebody.get(url)
        assert response.status_code == 200, (url, response.content[:300])
    following = "list"
    while following:
        response = somebody.get(f"/flows/?{following}")
        assert response.status_code == 200, (following, response.content[:300])
        following = response.context["next"]


def _send(shop: Shop, random: Random) -> None:
    """Send odd messages to the services that hear such events, and have them handled."""
    for event_type, body in _messages(random):
        for service in project.ALL_SERVICES:
            if reaction_of(service, event_type):
                shop.send(service, body)
    shop.pass_time(conf().max_wait.total_seconds() + 60)
    shop.settle_at_once()


def _messages(random: Random) -> Iterator[tuple[str, bytes]]:
    """Published events by type, with a few things changed, added or left out; now and then bytes are lost."""
    sound = sorted(conf().contracts_dir.glob("examples/*/full.json"))
    for _ in range(MESSAGES):
        path = random.choice(sound)
        event = json.loads(path.read_text())
        event["id"], event["subject"] = (str(UUID(int=random.getrandbits(128))) for _ in range(2))
        if random.random() < 0.4:
            event["subject"] = random.choice(TEXTS)
        if random.random() < 0.8:
            event.pop("correlationid", None)
        for _ in range(random.randrange(4)):
            place = random.choice([*_objects(event)])
            name = random.choice([*place, *ATTRIBUTES])
            if random.random() < 0.2:
                place.pop(name, None)
            else:
                place[name] = deepcopy(random.choice(ODD))
        body = json.dumps(event).encode()
        if random.random() < 0.05:
            at = random.randrange(len(body))
            body = body[:at] + body[at + random.randrange(20) :]
        yield path.parent.name, body


def _objects(value: Any) -> Iterator[dict[str, Any]]:
    if isinstance(value, dict):
        yield value
    for each in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from _objects(each)


def _pages() -> Iterator[str]:
    yield from ("/", "/flows.csv", "/latency/", "/reconciliation/")
    for flow in Flow.objects.values_list("pk", flat=True):
        yield from (f"/flows/{quote(flow, safe='')}{end}" for end in ("/", ".json", ".svg"))
    for service in project.ALL_SERVICES:
        yield f"/admin/{service}/deadletter/"
        for number in ServiceTables(service).dead_letters.values_list("pk", flat=True):
            yield from (f"/admin/{service}/deadletter/{number}/{page}/" for page in ("change", "edit"))
