"""Servers of a test's own, to be stopped and killed: a RabbitMQ node and a PostgreSQL cluster on free ports.

Those of the machine are never touched. Where the programs are missing the test is skipped with the reason, or fails
where the run demands the servers.
"""

import os
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import psycopg2
from kombu import Connection

from tests.processes import PATIENCE, Process, eventually

if TYPE_CHECKING:
    import pytest

_SHUTDOWN = 60.0


class RabbitMQ:
    """A node with its own name, ports, cookie, data and port mapper."""

    def __init__(self, folder: Path, beside: "RabbitMQ | None" = None, *, has_management: bool = False) -> None:
        """A node that is not started yet.

        Args:
            folder: for all it writes.
            beside: a running node whose cluster this one joins when it is started for the first time.
            has_management: whether it has the management API.
        """
        self._folder = folder
        self.name = f"{folder.name}@localhost"
        self.port, self._dist_port, self._mapper_port, self._management_port = free_ports(4)
        self._mapper: Process | None = None
        self._node: Process | None = None
        (folder / "plugins").write_text("[rabbitmq_management].\n" if has_management else "[].\n")
        settings = [f"listeners.tcp.local = 127.0.0.1:{self.port}"]
        if has_management:
            settings += ["management.tcp.ip = 127.0.0.1", f"management.tcp.port = {self._management_port}"]
        self._secret: str = folder.name
        if beside is not None:
            self._secret, self._mapper_port = beside._secret, beside._mapper_port
            settings += [
                "cluster_formation.peer_discovery_backend = classic_config",
                f"cluster_formation.classic_config.nodes.1 = {beside.name}",
                f"cluster_formation.classic_config.nodes.2 = {self.name}",
            ]
        self._has_own_mapper = beside is None
        (folder / "rabbitmq.conf").write_text("\n".join(settings) + "\n")
        cookie = folder / ".erlang.cookie"
        cookie.write_text(self._secret)
        cookie.chmod(0o400)
        self._environment = {
            "PATH": os.environ["PATH"],
            "HOME": str(folder),
            "LANG": "C.UTF-8",
            "ERL_EPMD_PORT": str(self._mapper_port),
            "ERL_EPMD_ADDRESS": "127.0.0.1",
            "RABBITMQ_NODENAME": self.name,
            "RABBITMQ_DIST_PORT": str(self._dist_port),
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "-kernel inet_dist_use_interface {127,0,0,1} +S 1:1",
            "RABBITMQ_CONF_ENV_FILE": str(folder / "none"),
            "RABBITMQ_CONFIG_FILE": str(folder / "rabbitmq.conf"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(folder / "plugins"),
            "RABBITMQ_MNESIA_BASE": str(folder / "mnesia"),
            "RABBITMQ_LOG_BASE": str(folder / "log"),
            "RABBITMQ_PID_FILE": str(folder / "pid"),
            "RABBITMQ_SCHEMA_DIR": str(folder / "schema"),
            # Has the script become the node instead of starting it: signals reach it, and it dies when we do.
            "RUNNING_UNDER_SYSTEMD": "true",
        }

    @property
    def url(self) -> str:
        return f"amqp://guest:guest@127.0.0.1:{self.port}//"

    @property
    def management_url(self) -> str:
        """Of the management API, if it has one."""
        return f"http://guest:guest@127.0.0.1:{self._management_port}"

    @property
    def lives(self) -> bool:
        return self._node is not None and self._node.lives

    def start(self) -> None:
        """Start it and wait until it can be used."""
        if self._mapper is None and self._has_own_mapper:
            self._mapper = self._run("epmd", [_program("epmd"), "-port", str(self._mapper_port)])
        self._node = self._run("rabbitmq", [_rabbitmq("rabbitmq-server")])
        eventually(self._answers, within=120, otherwise=self._node.says)

    def stop(self) -> None:
        """Stop it in good order."""
        if self._node is not None:
            self._node.end(_SHUTDOWN)

    def kill(self) -> None:
        """Kill it as a crash would."""
        if self._node is not None:
            self._node.kill()

    def ctl(self, *arguments: str) -> str:
        """Run ``rabbitmqctl`` on the node: ``ctl("set_vm_memory_high_watermark", "0")``. Returns what it says."""
        done = subprocess.run(
            [_rabbitmq("rabbitmqctl"), *arguments],
            env=self._environment, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def close(self) -> None:
        self.kill()
        if self._mapper is not None:
            self._mapper.kill()

    def _answers(self) -> bool:
        assert self._node
        assert self._node.lives, self._node.says()
        try:
            with Connection(self.url, connect_timeout=1) as connection:
                connection.connect()
        except (*connection.connection_errors, *connection.channel_errors):
            return False
        return True

    def _run(self, name: str, command: list[str]) -> Process:
        return Process(name, command, self._environment, self._folder / f"{name}.log")


class PostgreSQL:
    """A cluster of its own. PostgreSQL refuses to run as root: then it runs as the user ``postgres``."""

    def __init__(self, folder: Path, *, durable: bool = False) -> None:
        """``durable``: what is committed is on the disk, as it must be where the server itself is killed."""
        self._folder = folder
        self._durable = durable
        (self.port,) = free_ports(1)
        self._server: Process | None = None
        self._data = folder / "data"
        self._as_its_user: list[str] = []
        if os.geteuid() == 0:
            shutil.chown(folder, "postgres", "postgres")
            user = ("--reuid=postgres", "--regid=postgres", "--clear-groups", "--pdeathsig=KILL", "--")
            self._as_its_user = [_program("setpriv"), *user]
        settings = ["--auth=trust", "--username=postgres", "--no-sync", "--encoding=UTF8", "--locale=C"]
        initdb = subprocess.run(
            [*self._as_its_user, _postgresql("initdb"), *settings, str(self._data)],
            capture_output=True, text=True, check=False, cwd=folder,
        )  # fmt: skip
        assert initdb.returncode == 0, initdb.stderr

    @property
    def url(self) -> str:
        return f"postgres://postgres@127.0.0.1:{self.port}/postgres"

    def start(self) -> None:
        """Start it and wait until it can be used."""
        options = ["-D", self._data, "-p", self.port, "-h", "127.0.0.1", "-k", self._folder]
        options += ["-c", "max_connections=200", "-c", f"fsync={'on' if self._durable else 'off'}"]
        command = [*self._as_its_user, _postgresql("postgres"), *map(str, options)]
        environment = {"PATH": os.environ["PATH"], "LANG": "C"}
        self._server = Process("postgresql", command, environment, self._folder.parent / f"{self._folder.name}.log")
        eventually(self._answers, otherwise=self._server.says)

    def stop(self) -> None:
        """Stop it at once, cutting every connection: PostgreSQL's "fast" shutdown."""
        self._end_with(signal.SIGINT)

    def crash(self) -> None:
        """Stop it without a checkpoint, as a crash would: PostgreSQL's "immediate" shutdown."""
        self._end_with(signal.SIGQUIT)

    def _end_with(self, number: signal.Signals) -> None:
        if self._server is not None:
            os.kill(self._server.pid, number)
            server = self._server
            eventually(lambda: not server.lives, PATIENCE, otherwise=server.says)

    def close(self) -> None:
        if self._server is not None:
            self._server.kill()
            self._server.log.unlink()

    def _answers(self) -> bool:
        assert self._server
        assert self._server.lives, self._server.says()
        try:
            psycopg2.connect(self.url, connect_timeout=1).close()
        except psycopg2.OperationalError:
            return False
        return True


#: Where Debian has it: not in everyone's PATH.
_PGBOUNCER = Path("/usr/sbin/pgbouncer")


class PgBouncer:
    """A connection pool before a PostgreSQL server, in transaction mode, with few connections to it."""

    def __init__(self, folder: Path, server: str) -> None:
        """``server``: the URL of any database there."""
        (self.port,) = free_ports(1)
        target = urlsplit(server)
        self._pool: Process | None = None
        self._settings = folder / "pgbouncer.ini"
        self._log = folder.parent / f"{folder.name}.log"
        self._settings.write_text(
            f"[databases]\n* = host={target.hostname} port={target.port} user={target.username}\n"
            f"[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {self.port}\nunix_socket_dir =\n"
            "auth_type = any\npool_mode = transaction\ndefault_pool_size = 8\nmax_client_conn = 500\n"
        )
        self._user: list[str] = []
        if os.geteuid() == 0:
            folder.chmod(0o755)
            self._user = ["-u", "nobody"]

    def url(self, server: str) -> str:
        """The same database, through the pool."""
        target = urlsplit(server)
        return target._replace(netloc=f"{target.username}@127.0.0.1:{self.port}").geturl()

    def start(self) -> None:
        """Start it and wait until it can be used."""
        command = [_program("pgbouncer", _PGBOUNCER), *self._user, str(self._settings)]
        self._pool = Process("pgbouncer", command, {"PATH": os.environ["PATH"], "LANG": "C"}, self._log)
        eventually(self._answers, otherwise=self._pool.says)

    def kill(self) -> None:
        if self._pool is not None:
            self._pool.kill()

    def close(self) -> None:
        self.kill()
        if self._pool is not None:
            self._pool.log.unlink()

    def _answers(self) -> bool:
        assert self._pool
        assert self._pool.lives, self._pool.says()
        with suppress(OSError):
            socket.create_connection(("127.0.0.1", self.port), timeout=1).close()
            return True
        return False


@contextmanager
def own_pgbouncer(server: str) -> Iterator[PgBouncer]:
    """A running PgBouncer before a PostgreSQL server."""
    with _folder("pgbouncer") as folder:
        pool = PgBouncer(folder, server)
        try:
            pool.start()
            yield pool
        finally:
            pool.close()


@contextmanager
def own_rabbitmq(*, has_management: bool = False) -> Iterator[RabbitMQ]:
    """A running node, gone afterwards."""
    with own_rabbitmq_cluster(1, has_management=has_management) as (node,):
        yield node


@contextmanager
def own_rabbitmq_cluster(size: int, *, has_management: bool = False) -> Iterator[list[RabbitMQ]]:
    """So many running nodes that form one cluster, gone afterwards."""
    with ExitStack() as stack:
        nodes: list[RabbitMQ] = []
        for _ in range(size):
            folder, first = stack.enter_context(_folder("rabbit")), nodes[0] if nodes else None
            node = RabbitMQ(folder, beside=first, has_management=has_management)
            stack.callback(node.close)
            node.start()
            nodes.append(node)
        yield nodes


@contextmanager
def own_postgresql(*, durable: bool = False) -> Iterator[PostgreSQL]:
    """A running cluster, gone afterwards."""
    with _folder("postgres") as folder:
        cluster = PostgreSQL(folder, durable=durable)
        try:
            cluster.start()
            yield cluster
        finally:
            cluster.close()


@contextmanager
def a_corner_of_the_servers(request: "pytest.FixtureRequest") -> Iterator[dict[str, str]]:
    """Settings for a shop on the machine's RabbitMQ and PostgreSQL, with a namespace and a database of its own.

    With ``THROUGH_PGBOUNCER=1`` the shop reaches its database through a connection pool in transaction mode.
    """
    name = f"test_{secrets.token_hex(4)}"
    broker: str = request.getfixturevalue("rabbitmq_url")
    with ExitStack() as stack:
        database = stack.enter_context(own_database(request.getfixturevalue("postgresql_url"), name))
        if os.environ.get("THROUGH_PGBOUNCER") == "1":
            database = stack.enter_context(own_pgbouncer(database)).url(database)
        yield {"BROKER_URL": broker, "CHOREOGRAPHY_NAMESPACE": f"{name}.", "DATABASE_URL": database}


@contextmanager
def own_database(server: str, name: str) -> Iterator[str]:
    """The URL of an empty database, dropped afterwards."""
    run_sql(server, f"CREATE DATABASE {name}")
    try:
        yield server.rpartition("/")[0] + f"/{name}"
    finally:
        run_sql(server, f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")


def run_sql(server: str, statement: str) -> None:
    """Run one statement outside of any transaction."""
    with closing(psycopg2.connect(server)) as connection:
        connection.autocommit = True
        with connection.cursor() as cursor:
            cursor.execute(statement)


def free_ports(count: int) -> list[int]:
    """Ports nobody listens on at this moment, each another."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [int(listener.getsockname()[1]) for listener in sockets]
    for listener in sockets:
        listener.close()
    return ports


@contextmanager
def _folder(prefix: str) -> Iterator[Path]:
    """Not pytest's own: another user must be able to reach it."""
    with tempfile.TemporaryDirectory(prefix=f"{prefix}-", ignore_cleanup_errors=True) as folder:
        yield Path(folder)


def missing_programs() -> list[str]:
    """What has to be installed before servers can be started here."""
    needed = {
        "rabbitmq-server": shutil.which("rabbitmq-server"),
        "epmd": shutil.which("epmd"),
        "postgres": shutil.which("postgres") or any(_postgresql_programs("postgres")),
    }
    return [name for name, found in needed.items() if not found]


def has_pgbouncer() -> bool:
    """Whether it is installed."""
    return shutil.which("pgbouncer") is not None or _PGBOUNCER.exists()


def _program(name: str, *elsewhere: Path) -> str:
    """Where a program is; skips the test where it isn't."""
    found = shutil.which(name) or next((str(path) for path in elsewhere if path.exists()), None)
    if found is None:
        from tests.conftest import unavailable  # tests only: it needs pytest

        unavailable(f"A {name} of the test's own", FileNotFoundError(f"{name} is not installed"))
    return str(found)


def _rabbitmq(name: str) -> str:
    """The script behind the wrapper, which insists on a user of its own."""
    inner = Path("/usr/lib/rabbitmq/bin") / name
    return str(inner) if inner.exists() else _program(name)


def _postgresql(name: str) -> str:
    """Debian keeps the server's programs out of the path."""
    return _program(name, *_postgresql_programs(name))


def _postgresql_programs(name: str) -> list[Path]:
    return sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"), reverse=True)
