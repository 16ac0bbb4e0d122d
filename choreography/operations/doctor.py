"""What is wrong with a running installation: topology, backlog, dead letters. One line and one remedy each."""

import base64
import json
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from typing import Any
from urllib.parse import quote, urlsplit

from django.db import DatabaseError
from kombu import Connection

from choreography.broker import topology
from choreography.broker.embedded.transport import open_store
from choreography.broker.publisher import broker_errors, connect, diagnose, reach
from choreography.core import clock
from choreography.core.conf import conf
from choreography.core.errors import one_line
from choreography.operations.unheard import unheard
from choreography.storage.migrations import Unmigrated, refuse_unmigrated
from choreography.storage.tables import ServiceTables

#: An event that waits longer than this in an outbox is late.
_LATE = timedelta(seconds=30)
#: What no policy may set for our queues (https://www.rabbitmq.com/docs/parameters#policies).
_HARMFUL = frozenset(
    {
        "dead-letter-exchange",
        "dead-letter-routing-key",
        "delivery-limit",
        "expires",
        "max-length",
        "max-length-bytes",
        "message-ttl",
        "overflow",
    }
)


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong."""

    about: str
    what: str
    remedy: str


def findings() -> Iterator[Finding]:
    """Look at the databases and the broker of this process's services."""
    for service in conf().services:
        try:
            refuse_unmigrated([service])
            yield from _database(service)
        except Unmigrated as error:
            yield Finding(service, f"its database lacks migrations: {error.names}", f"run {error.command}")
        except DatabaseError as error:
            what = f"its database can't be reached: {one_line(error)}"
            yield Finding(service, what, "start it, or check its DATABASE_URL")
    with connect() as connection:
        try:
            reach(connection)
        except broker_errors(connection) as error:
            what, remedy = diagnose(error)
            yield Finding("broker", f"it {what}", remedy)
            return
        for service in conf().services:
            yield from _queues(connection, service)
            yield from _unheard(connection, service)
        yield from _bindings(connection)
        yield from _policies()


def _database(service: str) -> Iterator[Finding]:
    tables, now = ServiceTables(service), clock.now()
    unpublished = tables.outbox.filter(published_at=None).order_by("position")
    waiting, refused = unpublished.filter(refusal=""), unpublished.exclude(refusal="")
    oldest = waiting.first()
    if oldest is not None and now - oldest.announced_at > _LATE:
        yield Finding(
            f"{service} outbox",
            f"{waiting.count()} event(s) wait, the oldest for {(now - oldest.announced_at).total_seconds():.0f} s",
            f"is 'manage.py relay {service}' running?",
        )
    if refused:
        yield Finding(
            f"{service} outbox",
            f"{len(refused)} event(s) that the broker refuses for good, the first because: {refused[0].refusal}",
            f"mend the cause, then run manage.py choreography release {service}",
        )
    parked = tables.dead_letters.filter(state=tables.dead_letters.model.State.PARKED).count()
    if parked:
        yield Finding(
            f"{service} dead letters", f"{parked} parked", f"run manage.py dead_letters list --service {service}"
        )


def _queues(connection: Connection, service: str) -> Iterator[Finding]:
    queues = [(queue, topology.look_at(connection, queue)) for queue in topology.queues(service)]
    if all(found is None for _, found in queues):
        yield Finding(topology.queue_name(service), "all its queues are missing", "run manage.py declare_topology")
        return
    for queue, found in queues:
        if found is None:
            yield Finding(queue.name, "the queue is missing", "run manage.py declare_topology")
            continue
        try:
            with connection.channel() as channel:
                queue(channel).queue_declare()
        except connection.channel_errors as error:
            yield Finding(
                queue.name, f"it differs from the code: {one_line(error)}", "empty it, remove it, run declare_topology"
            )
        if queue.name == topology.queue_name(service) and found.consumers == 0:
            yield Finding(queue.name, "no worker reads it", f"start a worker with -Q {service}")


def _unheard(connection: Connection, service: str) -> Iterator[Finding]:
    """Events that are lost, unless they are still in the service's queue."""
    inbox = topology.look_at(connection, topology.inbox_queue(service))
    if inbox is None or inbox.messages:
        return
    try:
        lost = sum(1 for _ in unheard(service))
    except DatabaseError:
        return  # said already
    if lost:
        yield Finding(
            service,
            f"{lost} event(s) that were published more than a minute ago did not reach it",
            f"run manage.py choreography send_again {service}",
        )


def _bindings(connection: Connection) -> Iterator[Finding]:
    """Bindings that are missing or stale. RabbitMQ tells them through its management API only."""
    found = _bindings_on_broker()
    if found is None:
        return
    for service in conf().services:
        if topology.look_at(connection, topology.inbox_queue(service)) is None:
            continue  # said already
        inbox = topology.queue_name(service)
        wanted = {topology.exchange_name(event_type) for event_type in topology.event_types_heard_by(service)}
        bound = {exchange for exchange, queue in found if queue == inbox}
        own = {""}
        for exchange in sorted(wanted - bound):
            yield Finding(inbox, f"it is not bound to {exchange}", "run manage.py declare_topology")
        for exchange in sorted(bound - wanted - own):
            yield Finding(inbox, f"it is still bound to {exchange}, which no reaction reads", "unbind it on the broker")


def _bindings_on_broker() -> set[tuple[str, str]] | None:
    """(exchange, queue) of every binding; ``None`` where the broker offers no list."""
    url = conf().broker_url
    if url.startswith("embedded:"):
        return {(binding.exchange, binding.queue) for binding in open_store(url).bindings()}
    if not conf().rabbitmq_management_url:
        return None
    return {(row["source"], row["destination"]) for row in _listed_by_rabbitmq("bindings")}


def _policies() -> Iterator[Finding]:
    """Policies that lose or move messages behind the back of the arguments with which the queues are declared."""
    if not conf().rabbitmq_management_url or conf().broker_url.startswith("embedded:"):
        return
    ours = {queue.name for service in conf().services for queue in topology.queues(service)}
    for row in _listed_by_rabbitmq("queues"):
        policies = " and ".join(name for name in (row.get("policy"), row.get("operator_policy")) if name)
        harmful = {name: it for name, it in (row.get("effective_policy_definition") or {}).items() if name in _HARMFUL}
        if row["name"] in ours and harmful:
            what = ", ".join(f"{name} {value}" for name, value in sorted(harmful.items()))
            yield Finding(
                row["name"],
                f"the policy {policies} sets {what}: the broker may drop events, or move them where nobody looks",
                "take it out of the policy's pattern (rabbitmqctl list_policies, list_operator_policies)",
            )


def _listed_by_rabbitmq(what: str) -> list[dict[str, Any]]:
    """``bindings`` or ``queues``, as the management API lists them."""
    base, vhost = conf().rabbitmq_management_url, urlsplit(conf().broker_url).path[1:] or "/"
    rows: list[dict[str, Any]] = _get_json(f"{base}/api/{what}/{quote(vhost, safe='')}")
    return rows


def _get_json(url: str) -> Any:
    parts = urlsplit(url)
    bare = parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()
    request = urllib.request.Request(bare)  # noqa: S310 (an operator's own setting)
    if parts.username:
        login = base64.b64encode(f"{parts.username}:{parts.password}".encode()).decode()
        request.add_header("Authorization", f"Basic {login}")
    with urllib.request.urlopen(request, timeout=5) as response:  # noqa: S310
        return json.load(response)
