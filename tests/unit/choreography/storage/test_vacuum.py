"""PostgreSQL vacuums the large tables of a service in small steps."""

import os
from contextlib import closing
from typing import Any

import psycopg2
import pytest
from django.apps import apps
from django.db import connections
from django.test.utils import CaptureQueriesContext

from choreography.storage.vacuum import configure_vacuum
from tests.launched import manage

SMALL_STEPS = {
    "autovacuum_vacuum_scale_factor=0.02",
    "autovacuum_vacuum_insert_scale_factor=0.05",
    "autovacuum_analyze_scale_factor=0.02",
}


def migrate(database: str) -> None:
    """Run ``manage.py migrate`` for payments, whose tables are in this database."""
    environment = os.environ | {"DEBUG": "true", "PAYMENTS_DATABASE_URL": database}
    done = manage("migrate", "--database", "payments", "--verbosity", "0", environment=environment)
    assert done.returncode == 0, done.stderr


def query(database: str, statement: str) -> list[Any]:
    with closing(psycopg2.connect(database)) as connection, connection, connection.cursor() as cursor:
        cursor.execute(statement)
        return list(cursor.fetchall()) if cursor.description else []


def options(database: str) -> dict[str, set[str]]:
    """The storage parameters of every table of payments that has some."""
    found = query(database, "SELECT relname, reloptions FROM pg_class WHERE relkind = 'r' AND reloptions IS NOT NULL")
    return {name: set(given) for name, given in found}


def versions(database: str) -> list[Any]:
    """Change with every ALTER TABLE."""
    return query(database, "SELECT relname, xmin::text FROM pg_class WHERE relname LIKE 'payments_%box' ORDER BY 1")


@pytest.mark.postgresql
@pytest.mark.processes
def test_outbox_and_inbox_are_vacuumed_in_small_steps_after_a_migration(postgresql_database: str) -> None:
    migrate(postgresql_database)
    assert options(postgresql_database) == {"payments_outbox": SMALL_STEPS, "payments_inbox": SMALL_STEPS}
    before = versions(postgresql_database)

    query(postgresql_database, "ALTER TABLE payments_inbox SET (autovacuum_vacuum_scale_factor = 0.5)")
    migrate(postgresql_database)
    assert options(postgresql_database) == {"payments_outbox": SMALL_STEPS, "payments_inbox": SMALL_STEPS}
    (_, inbox), (_, outbox) = versions(postgresql_database)
    assert inbox != before[0][1]
    assert outbox == before[1][1], "it was set already and is not altered"


@pytest.mark.django_db(databases=["payments"])
def test_tables_of_another_database_than_postgresql_or_that_are_set_already_are_not_altered() -> None:
    with CaptureQueriesContext(connections["payments"]) as queries:
        configure_vacuum(apps.get_app_config("payments"), "payments")
    assert [query["sql"] for query in queries if query["sql"].startswith("ALTER")] == []
