"""What uses the database is the same on PostgreSQL: its tests run again there, in a run of their own."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import psycopg2
import pytest

from tests.processes import ROOT, SERVICES, clean_environment

pytestmark = [pytest.mark.postgresql, pytest.mark.processes, pytest.mark.slow, pytest.mark.longest]

#: The flows in which the database decides: locks, transactions that are rolled back, and values that it refuses. What
#: becomes of an order whose worker dies is seen there with real workers: tests/acceptance/test_killed_worker.py.
FLOWS = (
    "order_is_cancelled",
    "events_arrive_twice",
    "events_come_together",
    "two_copies_at_once",
    "message_is_unusable",
)
#: The layers of the machinery that use the database.
LAYERS = ("dead_letters", "inbox", "operations", "outbox", "storage")
AGAIN = (
    "tests/contracts/on_postgresql.py",
    *(f"tests/flows/test_{flow}.py" for flow in FLOWS),
    "tests/journal/test_history.py",
    "tests/journal/test_anything_arrives.py",
    *(f"tests/unit/choreography/{layer}" for layer in LAYERS),
)
#: Without a database of Django's.
ENOUGH_ONCE = ("retry_policy", "fingerprints", "deliveries")


@pytest.fixture
def database(postgresql_database: str, postgresql_url: str) -> Iterator[str]:
    """An empty database. What Django's test run makes beside it is dropped even where the run was killed."""
    yield postgresql_database
    name = postgresql_database.rpartition("/")[2]
    with closing(psycopg2.connect(postgresql_url)) as server:
        server.autocommit = True
        with server.cursor() as cursor:
            cursor.execute("SELECT datname FROM pg_database WHERE starts_with(datname, %s)", [f"test_{name}"])
            for (left_over,) in cursor.fetchall():
                cursor.execute(f"DROP DATABASE {left_over} WITH (FORCE)")


def test_the_tests_pass_on_postgresql(database: str, tmp_path: Path) -> None:
    run = subprocess.run(
        [
            *(sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"),
            *(f"--ignore-glob=*/test_{name}.py" for name in ENOUGH_ONCE),
            *AGAIN,
        ],
        cwd=ROOT,
        env=clean_environment(tmp_path)
        | {"DATABASE_URL": database, "SHOP_SERVICES": ",".join((*SERVICES, "journal"))}
        | _demands(),
        capture_output=True,
        text=True,
        check=False,
    )

    assert run.returncode == 0, run.stdout[-8000:] + run.stderr[-2000:]


def _demands() -> dict[str, str]:
    """Whether the servers may be missing, and where they are."""
    names = ("REQUIRE_SERVICES", "TEST_RABBITMQ_URL", "TEST_POSTGRESQL_URL")
    return {name: os.environ[name] for name in names if name in os.environ}
