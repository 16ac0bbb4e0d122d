"""What goes wrong in a run: one method each, called one after the other, in an order that the seed makes."""

import random
import struct
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal

import amqp

from tests.chaos import providers
from tests.processes import SERVICES as ORDER_SERVICES
from tests.wire import Raw, nested_lists

if TYPE_CHECKING:
    from tests.chaos.site import Site
    from tests.proxy import Direction, Proxy

SERVICES = (*ORDER_SERVICES, "journal")

#: Every kind there is, as the report names them.
KINDS = (
    "worker_killed",
    "worker_killed_while_asking",
    "relay_killed",
    "beat_killed",
    "web_killed",
    "broker_killed",
    "broker_restarted",
    "database_restarted",
    "broker_connections_cut",
    "broker_connections_stalled",
    "database_connections_cut",
    "database_connections_stalled",
    "deliveries_repeated",
    "deliveries_delayed_and_reordered",
    "memory_alarm",
    "ladder_full",
    "gateway_down",
    "carrier_down",
    "gateway_fails",
    "commits_refused",
    "worker_frozen",
    "queue_purged",
    "queue_deleted",
    "database_read_only",
    "pool_restarted",
    "rungs_deleted",
    "clock_shifted",
    "undecodable_messages",
    "poison",
)

_DIRECTIONS: "tuple[Direction | Literal['both'], ...]" = ("to_server", "to_client", "both")

#: Seconds a fault lasts that has a beginning and an end.
_HOLD = 3.0
#: Seconds by which a clock is ahead.
_SHIFTS = (-86400, -3600, 3600, 86400)
#: Part of the commits that fail while they do.
_REFUSED = 0.1
#: Headers in which the broker notes a message's way. With them it would take a message sent again for one that runs in
#: a circle, and drop it.
_BROKER_HEADERS = ("x-death", "x-first-death", "x-last-death", "x-delivery-count")


def schedule(kinds: tuple[str, ...], seconds: float, rng: random.Random) -> list[tuple[float, str]]:
    """When each fault is due, in seconds from the start: each kind at least once, at about one every four seconds."""
    drawn: list[str] = []
    while kinds and (len(drawn) < len(kinds) or len(drawn) < seconds / 4):
        drawn += rng.sample(kinds, len(kinds))
    # The beginning is left to orders alone: there must be work to disturb.
    return [(2 + number * (seconds - 2) / len(drawn), kind) for number, kind in enumerate(drawn)]


class Faults:
    """Injects faults into a site. Each call of ``inject`` returns when what was broken is being mended."""

    def __init__(self, site: "Site", rng: random.Random, pause: Callable[[float], None], parked_within: float) -> None:
        """``pause`` passes time, and sees to the site meanwhile."""
        self._site, self._rng, self._pause, self._parked_within = site, rng, pause, parked_within
        self.counts: Counter[str] = Counter()
        self.planted: list[str] = []
        """The bodies of messages that must be found among the dead letters in the end."""
        self.broken: list[str] = []
        """What did not become of a fault as it must."""

    def inject(self, kind: str) -> None:
        getattr(self, f"_{kind}")()
        self.counts[kind] += 1

    # Processes

    def _worker_killed(self) -> None:
        self._kill_and_start(self._rng.choice(self._site.workers(self._rng.choice(SERVICES))))

    def _worker_killed_while_asking(self) -> None:
        """Between the question to the carrier and its answer."""
        with self._site.database("shipping") as cursor:
            deadline = time.monotonic() + 5
            while time.monotonic() < deadline:
                cursor.execute(
                    "SELECT count(*) FROM shipping_shipment WHERE state = 'dispatching' AND cancel_requested IS NULL"
                )
                if cursor.fetchone()[0]:
                    break
                self._pause(0.01)
        self._kill_and_start(*self._site.workers("shipping"))

    def _relay_killed(self) -> None:
        self._kill_and_start(f"relay-{self._rng.choice(SERVICES)}")

    def _beat_killed(self) -> None:
        self._kill_and_start("beat")

    def _web_killed(self) -> None:
        self._kill_and_start("web")

    def _worker_frozen(self) -> None:
        """Not for as long as its claims are kept: what a process calls that is frozen for longer, nobody learns."""
        name = self._rng.choice(self._site.workers(self._rng.choice(SERVICES)))
        process = self._site.shop[name]
        process.freeze()
        self._pause(_HOLD)
        process.thaw()

    def _clock_shifted(self) -> None:
        """On one machine: processes that share what they write have other clocks."""
        service = self._rng.choice(SERVICES)
        names = self._rng.choice([self._site.workers(service), (f"relay-{service}",), ("beat",)])
        self._site.kill(*names)
        self._site.start(*names, ahead=self._rng.choice(_SHIFTS))
        self._pause(2 * _HOLD)
        self._kill_and_start(*names)

    def _poison(self) -> None:
        """An authorization ends whatever process asks for it, until it is parked; then a person sends it again."""
        lethal, [worker] = self._site.faults / providers.LETHAL, self._site.workers("payments")
        victim_file = self._site.faults / providers.VICTIM
        victim_file.unlink(missing_ok=True)
        lethal.touch()
        found: list[Any] = []
        with self._site.may_end(worker):
            deadline = time.monotonic() + self._parked_within
            while not victim_file.exists() and time.monotonic() < deadline:
                self._pause(0.1)
            if victim_file.exists():
                # Or the order was cancelled meanwhile, and nobody asks for it any more.
                found = self._wait_for(
                    "SELECT id, subject FROM payments_deadletter WHERE state = 'parked' AND reaction <> '' UNION ALL"
                    " SELECT NULL, subject FROM payments_inbox WHERE reaction = 'payments.authorize_payment'"
                    f" AND subject = '{victim_file.read_text()}'"
                )
            lethal.unlink()
        if victim_file.exists() and [subject for _, subject in found] != [victim_file.read_text()]:
            self.broken.append(f"order {victim_file.read_text()} ends processes, and payments has parked {found}")
        for number, _ in found:
            if number is not None:
                # It is published before that is committed: if the commit fails, the event may take effect all the same.
                self._site.manage("dead_letters", "retry", "payments", str(number), or_says="is not parked but")

    # Servers

    def _broker_killed(self) -> None:
        """Of several nodes the one that leads a service's inbox."""
        nodes = self._site.servers.brokers
        node = nodes[0]
        if len(nodes) > 1:
            leader = self._leader_of(self._rng.choice(SERVICES))
            node = next(node for node in nodes if node.name == leader)
            self.counts["queue_leaders_killed"] += 1
        node.kill()
        self._pause(self._rng.random())
        node.start()

    def _broker_restarted(self) -> None:
        node = self._rng.choice(self._site.servers.brokers)
        node.stop()
        self._pause(self._rng.random())
        node.start()

    def _database_restarted(self) -> None:
        self._site.servers.database.crash()
        self._pause(self._rng.random())
        self._site.servers.database.start()

    def _database_read_only(self) -> None:
        """As where a standby was not promoted yet."""
        service = self._rng.choice(SERVICES)
        for setting in ("SET default_transaction_read_only = on", "RESET default_transaction_read_only"):
            with self._site.database(service) as cursor:
                cursor.execute("SELECT current_database()")
                [name] = cursor.fetchone()
                cursor.execute("SET default_transaction_read_only = off")
                cursor.execute(f"ALTER DATABASE {name} {setting}")
                cursor.execute(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                    " WHERE datname = current_database() AND pid <> pg_backend_pid()"
                )
            self._pause(_HOLD)

    def _pool_restarted(self) -> None:
        """The connection pool before the database of payments."""
        pool = self._site.pool
        assert pool, "PgBouncer is not installed"
        pool.kill()
        self._pause(self._rng.random())
        pool.start()

    def _memory_alarm(self) -> None:
        """The brokers take nothing more."""
        nodes = self._site.servers.brokers
        for node in nodes:
            node.ctl("set_vm_memory_high_watermark", "0")
        self._pause(_HOLD)
        for node in nodes:
            node.ctl("set_vm_memory_high_watermark", "0.4")

    def _ladder_full(self) -> None:
        """Retry queues refuse what comes, while much has to be tried again."""
        node, pattern = self._site.servers.brokers[0], rf"^{self._site.namespace}.*\.retry\."
        policy = ("full", pattern, '{"max-length": 1, "overflow": "reject-publish"}', "--apply-to", "queues")
        node.ctl("set_policy", *policy)
        with self._while("gateway-fails"), self._while("carrier-fails"):
            self._pause(_HOLD)
        node.ctl("clear_policy", "full")

    def _rungs_deleted(self) -> None:
        """With what waits there, while much has to be tried again.

        The services have noted what they put there, but for what waits because their database was down just before.
        """
        with self._while("gateway-fails"), self._while("carrier-fails"):
            self._pause(_HOLD / 2)
            with self._site.broker() as channel:
                for service in ("payments", "shipping"):
                    for rung in ("1s", "5s"):
                        queue = f"{self._site.namespace}{service}.retry.{rung}"
                        self.counts["messages_deleted_with_rungs"] += channel.queue_delete(queue)
            self._pause(_HOLD / 2)
        for service in ("payments", "shipping"):
            self._site.send_again(service)

    # Connections

    def _broker_connections_cut(self) -> None:
        for line in self._some_broker_lines():
            line.cut()

    def _broker_connections_stalled(self) -> None:
        self._stall([line for lines in self._site.broker_lines.values() for line in lines])

    def _database_connections_cut(self) -> None:
        for line in self._some_database_lines():
            line.cut()

    def _database_connections_stalled(self) -> None:
        self._stall(self._some_database_lines())

    def _stall(self, lines: "list[Proxy]") -> None:
        """Bytes get stuck on the way. Answers arrive in the end, late; questions are lost with the connection."""
        direction = self._rng.choice(_DIRECTIONS)
        for line in lines:
            line.stall(direction)
        self._pause(_HOLD)
        if direction != "to_client":
            for line in lines:
                line.cut()
        for line in lines:
            line.flow()

    def _some_broker_lines(self) -> "list[Proxy]":
        return [line for service in self._some_services() for line in self._site.broker_lines[service]]

    def _some_database_lines(self) -> "list[Proxy]":
        return [self._site.database_lines[service] for service in self._some_services()]

    def _some_services(self) -> list[str]:
        return self._rng.sample(SERVICES, self._rng.randint(1, 3))

    # Deliveries

    def _deliveries_repeated(self) -> None:
        """What was published is published again."""
        for service in SERVICES:
            with self._site.database(service) as cursor:
                cursor.execute(
                    f"UPDATE {service}_outbox SET published_at = NULL WHERE position IN (SELECT position"
                    f" FROM {service}_outbox WHERE published_at IS NOT NULL ORDER BY random() LIMIT 20)"
                )
                self.counts["messages_repeated"] += cursor.rowcount

    def _deliveries_delayed_and_reordered(self) -> None:
        """What waits in an inbox while its workers are away is sent to its ladder, or put back in another order."""
        service = self._rng.choice(SERVICES)
        self._site.kill(*self._site.workers(service))
        self._pause(1.0)
        inbox = f"{self._site.namespace}{service}"
        with self._site.broker() as channel:
            messages = list(_taken_from(inbox, channel))
            self._rng.shuffle(messages)
            for message in messages:
                queue = self._rng.choice((inbox, inbox, f"{inbox}.retry.1s", f"{inbox}.retry.5s"))
                _send_on(message, queue, inbox, channel)
                self.counts["messages_reordered" if queue == inbox else "messages_delayed"] += 1
        self._site.start(*self._site.workers(service))

    def _queue_purged(self) -> None:
        """By an operator, who then has sent again what is lost."""
        self._lose_messages("messages_purged", "queue_purge")

    def _queue_deleted(self) -> None:
        self._lose_messages("messages_deleted", "queue_delete")

    def _lose_messages(self, count: str, how: str) -> None:
        """What waits in an inbox while its workers are away is lost.

        Not what waits for the journal: reports are in no outbox. ``manage.py journal backfill`` makes up for them.
        """
        service = self._rng.choice(ORDER_SERVICES)
        workers = self._site.workers(service)
        self._site.kill(*workers)
        self._pause(1.0)
        with self._site.broker() as channel:
            self.counts[count] += getattr(channel, how)(f"{self._site.namespace}{service}")
        self._site.start(*workers)
        self._site.send_again(service)

    def _undecodable_messages(self) -> None:
        """Messages that are no events, with properties that AMQP clients can't decode."""
        service = self._rng.choice(ORDER_SERVICES)
        bodies: list[str] = []
        with self._site.broker() as channel:
            for properties in _UNDECODABLE:
                bodies.append(f"planted {len(self.planted) + len(bodies)}")
                queue = f"{self._site.namespace}{service}"
                channel.basic_publish_confirm(Raw(bodies[-1].encode(), properties), "", queue, mandatory=True)
        self.planted += bodies
        self.counts["messages_undecodable"] += len(bodies)
        found = self._wait_for(
            f"SELECT convert_from(body, 'UTF8') FROM {service}_deadletter"
            f" WHERE convert_from(body, 'UTF8') IN ({', '.join(map(repr, bodies))})",
            len(bodies),
            service,
        )
        if len(found) != len(bodies):
            self.broken.append(f"of {len(bodies)} messages that can't be decoded {service} has kept {len(found)}")

    # The external systems, and the databases' last word

    def _gateway_down(self) -> None:
        with self._while("gateway-down"):
            self._pause(_HOLD)

    def _carrier_down(self) -> None:
        with self._while("carrier-down"):
            self._pause(_HOLD)

    def _gateway_fails(self) -> None:
        with self._while("gateway-fails"):
            self._pause(_HOLD)

    def _commits_refused(self) -> None:
        """Now and then a transaction fails at its very end."""
        self._site.refuse_commits(_REFUSED)
        self._pause(_HOLD)
        self._site.refuse_commits(0)

    # Helpers

    def _wait_for(self, query: str, rows: int = 1, service: str = "payments") -> list[Any]:
        """What a query of a service's database finds, once that is enough, or when time is up."""
        deadline = time.monotonic() + self._parked_within
        while True:
            with self._site.database(service) as cursor:
                cursor.execute(query)
                found: list[Any] = cursor.fetchall()
            if len(found) >= rows or time.monotonic() >= deadline:
                return found
            self._pause(0.3)

    def _kill_and_start(self, *names: str) -> None:
        self._site.kill(*names)
        self._site.start(*names)

    def _leader_of(self, service: str) -> str:
        for node in self._site.servers.brokers:
            for line in node.ctl("-q", "list_queues", "name", "leader").splitlines():
                name, _, leader = line.partition("\t")
                if name == f"{self._site.namespace}{service}":
                    return leader
        raise LookupError(f"no queue {service}")

    @contextmanager
    def _while(self, name: str) -> Iterator[None]:
        """Have an external system misbehave (see ``providers``)."""
        file = self._site.faults / name
        file.touch()
        try:
            yield
        finally:
            file.unlink()


def _header(value: bytes) -> bytes:
    field = b"\x03odd" + value
    return struct.pack(">HI", 0x2000, len(field)) + field


#: A time in milliseconds, the largest number, lists in lists, an app_id and a content type that are not UTF-8.
_UNDECODABLE = (
    _header(b"T" + struct.pack(">Q", 1_700_000_000_000)),
    _header(b"l" + b"\xff" * 8),
    _header(nested_lists(3000)),
    struct.pack(">H", 0x0008) + b"\x02\xff\xfe",
    struct.pack(">H", 0x8000) + b"\x02\xff\xfe",
)


def _taken_from(queue: str, channel: Any) -> Iterator[Any]:
    """Messages taken and not acknowledged: who dies now has lost nothing."""
    while (message := channel.basic_get(queue)) is not None:
        yield message


def _send_on(message: Any, queue: str, inbox: str, channel: Any) -> None:
    """Put a message where it is to be, and only then let go of it. A timer's tick goes the way it came."""
    properties = dict(message.properties)
    headers = properties.get("application_headers") or {}
    properties["application_headers"] = {
        name: value for name, value in headers.items() if not name.startswith(_BROKER_HEADERS)
    }
    exchange, key = "", queue
    if message.delivery_info["exchange"] == f"{inbox}.timers":
        exchange, key = message.delivery_info["exchange"], message.delivery_info["routing_key"]
    channel.basic_publish_confirm(amqp.Message(message.body, **properties), exchange, key, mandatory=True)
    channel.basic_ack(message.delivery_tag)
