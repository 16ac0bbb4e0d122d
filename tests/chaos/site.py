"""A shop on servers of its own: RabbitMQ, PostgreSQL, the lines to them, every process, and the people."""

import secrets
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import amqp
import psycopg2

from tests.chaos import providers
from tests.chaos.options import Options
from tests.chaos.sabotage import SABOTAGES
from tests.processes import SERVICES as ORDER_SERVICES
from tests.processes import Clerk, RunningShop, clean_environment, command, completed, eventually, running_shop, worker
from tests.proxy import Proxy
from tests.servers import (
    PgBouncer,
    PostgreSQL,
    RabbitMQ,
    free_ports,
    has_pgbouncer,
    own_pgbouncer,
    own_postgresql,
    own_rabbitmq_cluster,
    run_sql,
)
from tests.skewed import skewed

SERVICES = (*ORDER_SERVICES, "journal")
RELAYS = tuple(f"relay-{service}" for service in SERVICES)
#: Shipping has two: one worker has one event of an order at a time, and here they are to meet.
WORKERS: dict[str, tuple[str, ...]] = {service: (f"worker-{service}",) for service in SERVICES}
WORKERS["shipping"] += ("worker2-shipping",)
PROCESSES = (*RELAYS, *(name for names in WORKERS.values() for name in names), "beat", "web")

ADMIN_PASSWORD = "for this run only"

#: Fails some commits as a serialization failure would, after everything in the transaction went well.
_REFUSE_COMMITS = """
    CREATE TABLE chaos_refusals (part real NOT NULL);
    INSERT INTO chaos_refusals VALUES (0);
    CREATE SEQUENCE chaos_refused;
    CREATE FUNCTION chaos_refuse() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        IF random() < (SELECT part FROM chaos_refusals) THEN
            PERFORM nextval('chaos_refused');
            RAISE EXCEPTION 'the commit is refused' USING ERRCODE = 'serialization_failure';
        END IF;
        RETURN NULL;
    END $$;
    CREATE CONSTRAINT TRIGGER chaos AFTER INSERT ON {service}_outbox DEFERRABLE INITIALLY DEFERRED
        FOR EACH ROW EXECUTE FUNCTION chaos_refuse();
    GRANT ALL ON chaos_refusals, chaos_refused TO PUBLIC
"""


@dataclass(frozen=True)
class Servers:
    """What several runs may share."""

    brokers: list[RabbitMQ]
    database: PostgreSQL


@contextmanager
def own_servers(cluster: int = 1) -> Iterator[Servers]:
    """A RabbitMQ cluster and a PostgreSQL cluster, running, gone afterwards."""
    with own_rabbitmq_cluster(cluster) as brokers, own_postgresql(durable=True) as database:
        yield Servers(brokers, database)


@dataclass
class Site:
    """A running shop. ``broker_lines`` and ``database_lines`` lead to the servers, by service."""

    servers: Servers
    shop: RunningShop
    namespace: str
    databases: Mapping[str, str]
    """URLs that lead straight to each service's database, as its administrator."""
    broker_lines: Mapping[str, list[Proxy]]
    """A line to each node."""
    database_lines: Mapping[str, Proxy]
    pool: PgBouncer | None
    """Between the line of payments and its database, if it is installed."""
    faults: Path
    """Files in here bring an external system down (see ``providers``)."""
    web_port: int
    people: "People"
    ended: dict[str, int] = field(default_factory=dict)
    """How often a process ended though nobody had killed it."""
    _killed: set[str] = field(default_factory=set)
    _may_end: set[str] = field(default_factory=set)

    @property
    def web(self) -> str:
        return f"http://127.0.0.1:{self.web_port}"

    def start(self, *names: str, ahead: int = 0) -> None:
        """Start processes in place of those that had the name before, with a clock that is so many seconds ahead."""
        for name in names:
            self._killed.discard(name)
            kind, _, service = name.partition("-")
            broker = _failover(self.broker_lines[service or "orders"])
            if name == "web":
                self.shop.run(name, _gunicorn(self.web_port))
                continue
            program = worker(service, name=f"{service}2") if kind == "worker2" else command(name)
            if ahead:
                file = self.shop.folder / f"{name}.ahead"
                file.write_text(str(ahead))
                program = skewed(program, file)
            self.shop.run(name, program, BROKER_URL=broker)

    def workers(self, service: str) -> tuple[str, ...]:
        """The names of a service's workers."""
        return WORKERS[service]

    def kill(self, *names: str) -> None:
        """SIGKILL."""
        self._killed.update(names)
        for name in names:
            self.shop[name].kill()

    def supervise(self) -> None:
        """Start again what has ended by itself, as a service manager would, and remember it."""
        for name in set(self.shop.have_ended()) - self._killed:
            if name not in self._may_end:
                self.ended[name] = self.ended.get(name, 0) + 1
            self.start(name)

    @contextmanager
    def may_end(self, name: str) -> Iterator[None]:
        """For the duration it is no fault of a process that it ends."""
        self._may_end.add(name)
        try:
            yield
        finally:
            self.supervise()
            self._may_end.discard(name)

    def ask(self, question: str, **details: Any) -> Any:
        """Ask the auditor: see ``tests.chaos.audit``."""
        return self.shop.ask(question, **details)

    @contextmanager
    def database(self, service: str) -> Iterator[Any]:
        """A cursor in a service's database, each statement a transaction."""
        with closing(psycopg2.connect(self.databases[service], connect_timeout=5)) as connection:
            connection.autocommit = True
            with connection.cursor() as cursor:
                yield cursor

    @contextmanager
    def broker(self) -> Iterator[Any]:
        """A channel straight to a node that runs; what it publishes is confirmed."""
        node = next(node for node in self.servers.brokers if node.lives)
        connection = amqp.Connection(f"127.0.0.1:{node.port}", confirm_publish=True, connect_timeout=5, read_timeout=10)
        connection.connect()
        with closing(connection):
            channel = connection.channel()
            channel.auto_decode = False
            yield channel

    @cached_property
    def queues(self) -> list[str]:
        """Every queue of the shop: the inboxes, what is behind them, and the ladders."""
        return list(self.ask("queues"))

    def waiting(self) -> dict[str, int]:
        """Queues that are not empty, and how many messages are ready in them."""
        with self.broker() as channel:
            counts = {queue: channel.queue_declare(queue, passive=True).message_count for queue in self.queues}
        return {queue: count for queue, count in counts.items() if count}

    def refuse_commits(self, part: float) -> None:
        """Have every service's database fail this part of the transactions that announce something. 0: none."""
        for service in SERVICES:
            with self.database(service) as cursor:
                cursor.execute("UPDATE chaos_refusals SET part = %s", [part])

    def send_again(self, service: str) -> None:
        """Have a service get what others have published and it has not heard, as soon as its queue is there again."""
        self.manage("choreography", "send_again", service, "--after", "0")

    def manage(self, *arguments: str, or_says: str | None = None) -> None:
        """Run a command of the shop, again until it succeeds, or says this: what it needs may be down."""
        program = [sys.executable, "manage.py", *arguments]
        said = ""

        def succeeds() -> bool:
            nonlocal said
            done = completed(program, self.shop.environment)
            said = done.stdout + done.stderr
            return done.returncode == 0 or (or_says is not None and or_says in said)

        eventually(succeeds, otherwise=lambda: said[-1000:])

    def commits_refused(self) -> int:
        """How many were."""
        total = 0
        for service in SERVICES:
            with self.database(service) as cursor:
                cursor.execute("SELECT CASE WHEN is_called THEN last_value ELSE 0 END FROM chaos_refused")
                total += cursor.fetchone()[0]
        return total


class People:
    """A process from which orders are placed and cancelled, with the orders database only. For many threads."""

    def __init__(self, clerk: Clerk) -> None:
        self._clerk = clerk
        self._lock = threading.Lock()

    def ask(self, question: str, **details: Any) -> Any:
        """Ask a question of ``tests.chaos.people``."""
        with self._lock:
            return self._clerk.ask(question, **details)


@contextmanager
def running_site(servers: Servers, folder: Path, options: Options) -> Iterator[Site]:
    """A shop with all its processes, which are ready. Nothing of it is left afterwards."""
    name = f"chaos_{secrets.token_hex(3)}"
    with ExitStack() as stack:
        owners = ("accounts", *SERVICES)
        databases = {owner: stack.enter_context(_own_database(servers.database, f"{name}_{owner}")) for owner in owners}
        ports, pool = dict.fromkeys(owners, servers.database.port), None
        if has_pgbouncer():
            payments = f"postgres://{name}_payments@127.0.0.1:{servers.database.port}/{name}_payments"
            pool = stack.enter_context(own_pgbouncer(payments))
            ports["payments"] = pool.port
        lines = {owner: stack.enter_context(closing(Proxy(port))) for owner, port in ports.items()}
        broker_lines = {
            service: [stack.enter_context(closing(Proxy(node.port))) for node in servers.brokers]
            for service in SERVICES
        }
        faults = folder / "faults"
        faults.mkdir(parents=True)
        (web_port,) = free_ports(1)
        environment = {
            "DJANGO_SETTINGS_MODULE": "tests.chaos.settings",
            "CHOREOGRAPHY_NAMESPACE": f"{name}.",
            "PAYMENT_GATEWAY": "tests.chaos.providers.UnreliableGateway",
            "CARRIER": "tests.chaos.providers.UnreliableCarrier",
            providers.FOLDER: str(faults),
            providers.SEED: str(options.seed),
            "SABOTAGE": options.sabotage,
            "SHOP_SERVICES": ",".join(SERVICES),
            "SANDBOX_DELIVERY_SECONDS": "1",
            "SANDBOX_SLOW_SECONDS": "1.5",
            "LOG_FORMAT": "json",
            "BROKER_URL": _failover(broker_lines["orders"]),
            **{
                f"{owner.upper()}_DATABASE_URL": lines[owner].url(f"postgres://{name}_{owner}@127.0.0.1/{name}_{owner}")
                for owner in owners
            },
        }
        shop = stack.enter_context(running_shop(folder, clerk="tests.chaos.audit", **environment))
        # A run that is broken off in the middle of a fault must not hang on it.
        for line in (*lines.values(), *(line for several in broker_lines.values() for line in several)):
            stack.callback(line.flow)
        shop.ask("open_admin", password=ADMIN_PASSWORD)
        people = _hire(shop, folder)
        stack.callback(people.leave)
        site = Site(servers, shop, f"{name}.", databases, broker_lines, lines, pool, faults, web_port, People(people))
        for service in SERVICES:
            with site.database(service) as cursor:
                cursor.execute(_REFUSE_COMMITS.format(service=service))
        for service, statement in SABOTAGES[options.sabotage].in_databases if options.sabotage else ():
            with site.database(service) as cursor:
                cursor.execute(statement)
        site.start(*PROCESSES)
        shop.started(*RELAYS, *(names[0] for names in WORKERS.values()), "beat")
        eventually(lambda: '"Listening at' in shop["web"].says() or "Listening at" in shop["web"].says())
        yield site


def _hire(shop: RunningShop, folder: Path) -> Clerk:
    """People's process: with the orders database alone, it can place orders and needs nothing else."""
    alone = clean_environment(folder) | {
        "DJANGO_SETTINGS_MODULE": "tests.chaos.settings",
        "SHOP_SERVICES": "orders",
        "ORDERS_DATABASE_URL": shop.environment["ORDERS_DATABASE_URL"],
    }
    if shop.environment["SABOTAGE"] == "outbox":  # publishing at once needs a broker
        alone |= {name: shop.environment[name] for name in ("SABOTAGE", "BROKER_URL", "CHOREOGRAPHY_NAMESPACE")}
    return Clerk(alone, folder / "people.log", "tests.chaos.people")


def _failover(lines: list[Proxy]) -> str:
    """One URL for all nodes: where one is gone the next is tried."""
    return ";".join(f"amqp://guest:guest@127.0.0.1:{line.port}//" for line in lines)


@contextmanager
def _own_database(server: PostgreSQL, name: str) -> Iterator[str]:
    """An empty database with an account of the same name that owns it and reaches no other. Dropped afterwards."""
    run_sql(server.url, f"CREATE ROLE {name} LOGIN")
    try:
        run_sql(server.url, f"CREATE DATABASE {name} OWNER {name}")
        run_sql(server.url, f"REVOKE CONNECT ON DATABASE {name} FROM PUBLIC")
        yield server.url.rpartition("/")[0] + f"/{name}"
    finally:
        run_sql(server.url, f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")
        run_sql(server.url, f"DROP ROLE {name}")


def _gunicorn(port: int) -> list[str]:
    """As the Procfile has it."""
    command = [sys.executable, "-m", "gunicorn", "shop.wsgi", "--bind", f"127.0.0.1:{port}"]
    return [*command, "--threads", "8", "--no-control-socket"]
