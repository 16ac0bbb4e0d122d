"""The servers of a benchmark: its own, on free ports, as durable as they are by default.

PostgreSQL writes every commit to the disk (fsync and synchronous_commit stay on). It keeps statistics of statements,
and the time of each commit: an order is placed when its lines were committed and completed when that update was, on
one clock, whatever a system itself believes. RabbitMQ has one scheduler thread, as all nodes of ``tests.servers``.
"""

import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg2

from bench import sample
from bench.meters import parent_of
from tests.processes import clean_environment, make_tables
from tests.servers import PostgreSQL, RabbitMQ, own_postgresql, own_rabbitmq, run_sql

_TEMPLATE = "template_of_the_bench"
_SETTINGS = {
    "shared_preload_libraries": "pg_stat_statements",
    "track_commit_timestamp": "on",
}
#: Statements that no system sent: ours are sent under another name than theirs.
_OBSERVER = "observer"

#: An order's moments that leave no row of their own. Not logged, so that they cost next to nothing.
_MARKS = """
CREATE UNLOGGED TABLE bench_mark (order_id uuid NOT NULL, what text NOT NULL);
CREATE FUNCTION bench_mark() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS $$
BEGIN
    INSERT INTO bench_mark VALUES (NEW.id, TG_ARGV[0]);
    RETURN NULL;
END $$;
CREATE TRIGGER bench_authorized AFTER UPDATE ON orders_order FOR EACH ROW
    WHEN (OLD.authorized_at IS NULL AND NEW.authorized_at IS NOT NULL) EXECUTE FUNCTION bench_mark('authorized');
CREATE TRIGGER bench_captured AFTER UPDATE ON orders_order FOR EACH ROW
    WHEN (OLD.captured_at IS NULL AND NEW.captured_at IS NOT NULL) EXECUTE FUNCTION bench_mark('captured');
CREATE TRIGGER bench_completed AFTER UPDATE ON orders_order FOR EACH ROW
    WHEN (OLD.status <> 'completed' AND NEW.status = 'completed') EXECUTE FUNCTION bench_mark('completed');
"""

#: Removes the virtual hosts of places before, and makes one. Each call of rabbitmqctl starts an Erlang system: one for
#: all of it takes a second, one for each step would take three.
_ONLY_VIRTUAL_HOST = """
    [rabbit_vhost:delete(Name, <<"bench">>) || Name <- rabbit_vhost:list_names(), Name =/= <<"/">>],
    rabbit_vhost:add(<<"%(name)s">>, <<"bench">>),
    rabbit_auth_backend_internal:set_permissions(
        <<"guest">>, <<"%(name)s">>, <<".*">>, <<".*">>, <<".*">>, <<"bench">>).
"""


@dataclass(frozen=True)
class Place:
    """Where one system runs once: an empty database and an empty virtual host."""

    name: str
    database: str
    """URL for the system."""
    broker: str
    """URL for the system."""
    watching: str
    """URL of the database for whoever measures."""


class Servers:
    """The running servers."""

    def __init__(self, rabbitmq: RabbitMQ, postgresql: PostgreSQL) -> None:
        self.rabbitmq = rabbitmq
        self.postgresql = postgresql
        self.rabbitmq_pid = int(rabbitmq.ctl("eval", "list_to_integer(os:getpid())."))
        with closing(psycopg2.connect(postgresql.url)) as connection:
            self.postgresql_pid = parent_of(connection.info.backend_pid)

    @contextmanager
    def place(self, name: str) -> Iterator[Place]:
        """A place with the tables of the shop and two products, one at a time.

        Its database is gone afterwards, its virtual host when the next one is made.
        """
        run_sql(self._watching("postgres"), f"CREATE DATABASE {name} TEMPLATE {_TEMPLATE}")
        self.rabbitmq.ctl("eval", _ONLY_VIRTUAL_HOST % {"name": name})
        try:
            yield Place(name, self._url(name), f"{self.rabbitmq.url.rstrip('/')}/{name}", self._watching(name))
        finally:
            run_sql(self._watching("postgres"), f"DROP DATABASE {name} WITH (FORCE)")

    def versions(self) -> dict[str, str]:
        """What was measured on."""
        return {
            "rabbitmq": self.rabbitmq.ctl("eval", "rabbit_misc:version().").strip().strip('"'),
            "postgresql": str(ask(self._watching("postgres"), "SHOW server_version")[0][0]),
            "python": sys.version.split()[0],
        }

    def prepare(self, folder: Path) -> None:
        """Make the template: the shop's own tables for everybody, so that all write the same rows."""
        run_sql(self.postgresql.url, f"CREATE ROLE {_OBSERVER} SUPERUSER LOGIN")
        run_sql(self.postgresql.url, f"CREATE DATABASE {_TEMPLATE}")
        run_sql(self._url(_TEMPLATE), "CREATE EXTENSION pg_stat_statements")
        (folder / "var").mkdir()
        everyone = {"SHOP_SERVICES": "orders,payments,shipping,journal"}
        environment = clean_environment(folder) | {"DATABASE_URL": self._url(_TEMPLATE)} | everyone
        make_tables(environment, folder)
        with closing(psycopg2.connect(self._watching(_TEMPLATE))) as connection, connection, connection.cursor() as sql:
            sql.execute(_MARKS)
            for key, sku, name, price, _ in sample.LINES:
                sql.execute(
                    "INSERT INTO orders_product (id, sku, name, price, currency, active) VALUES (%s,%s,%s,%s,%s,true)",
                    (key, sku, name, price, sample.CURRENCY),
                )

    def _url(self, database: str) -> str:
        return self.postgresql.url.rpartition("/")[0] + f"/{database}"

    def _watching(self, database: str) -> str:
        return self._url(database).replace("postgres://postgres@", f"postgres://{_OBSERVER}@")


@contextmanager
def own_servers(folder: Path) -> Iterator[Servers]:
    """Both servers, prepared; gone afterwards."""
    with own_rabbitmq() as rabbitmq, own_postgresql(durable=True) as postgresql:
        for name, value in _SETTINGS.items():
            run_sql(postgresql.url, f"ALTER SYSTEM SET {name} = '{value}'")
        postgresql.stop()
        postgresql.start()
        servers = Servers(rabbitmq, postgresql)
        servers.prepare(folder)
        yield servers


def ask(url: str, query: str, *parameters: Any) -> list[tuple[Any, ...]]:
    """What a SELECT finds, over a connection of its own."""
    with closing(psycopg2.connect(url)) as connection:
        connection.autocommit = True
        with connection.cursor() as sql:
            sql.execute(query, parameters)
            return list(sql.fetchall())
