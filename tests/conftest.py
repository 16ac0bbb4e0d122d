"""What every test may use: the real servers (or a reason to skip), and a data folder of its own."""

import os
import secrets
import subprocess
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import psycopg2
import pytest
from django.conf import settings as django_settings
from django.db.backends.postgresql.operations import DatabaseOperations
from kombu import Connection
from pytest_django.fixtures import Settings

RABBITMQ = os.environ.get("TEST_RABBITMQ_URL", "amqp://guest:guest@127.0.0.1:5672//")
NODE = Path(__file__).parent / "node"
POSTGRESQL = os.environ.get("TEST_POSTGRESQL_URL", "postgres://postgres@127.0.0.1:5432/postgres")

Test = TypeVar("Test")


def leaves_out_slow_tests(config: pytest.Config) -> bool:
    """Nobody has asked for them: not by ``ALL=1``, nor by naming tests. A worker is told by its controller."""
    if hasattr(config, "workerinput"):
        return bool(config.workerinput["leaves_out_slow_tests"])
    return os.environ.get("ALL") != "1" and config.args_source is pytest.Config.ArgsSource.TESTPATHS


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if leaves_out_slow_tests(config):
        config.hook.pytest_deselected(items=[item for item in items if item.get_closest_marker("slow")])
        items[:] = [item for item in items if not item.get_closest_marker("slow")]
    longest = [item for item in items if item.get_closest_marker("longest")]
    others = [item for item in items if not item.get_closest_marker("longest")]
    items[:] = in_order(longest, others, getattr(config, "workerinput", {}).get("workercount", 1))


def in_order(longest: Sequence[Test], others: Sequence[Test], workers: int) -> list[Test]:
    """The longest tests first: begun last, one would still run when everything else has ended.

    pytest-xdist gives each of its workers an equal share of what is returned, one share after the other
    (``--dist worksteal``). So each share begins with some of the longest.
    """
    ordered: list[Test] = []
    rest = deque(others)
    for worker in range(workers):
        first = longest[worker::workers]
        share = (len(longest) + len(others) - len(ordered)) // (workers - worker)
        ordered += [*first, *(rest.popleft() for _ in range(min(share - len(first), len(rest))))]
    return [*ordered, *rest]


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    node.workerinput["leaves_out_slow_tests"] = leaves_out_slow_tests(node.config)


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    if leaves_out_slow_tests(config):
        terminalreporter.write_line("Slow tests were left out: make test ALL=1 runs them too.")


def unavailable(what: str, error: Exception) -> None:
    """Skip with the reason; fail where the run demands the servers."""
    reason = f"{what} can't be reached: {error}"
    if os.environ.get("REQUIRE_SERVICES") == "1":
        pytest.fail(reason)
    pytest.skip(reason)


@pytest.fixture(scope="session", autouse=True)
def quick_flush() -> Iterator[None]:
    """Empty tables by DELETE. Django truncates them, for which PostgreSQL makes all their files anew."""

    def sql_flush(self: DatabaseOperations, style: Any, tables: Iterable[str], **_: Any) -> list[str]:
        return [f"DELETE FROM {self.quote_name(table)}" for table in tables]

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(DatabaseOperations, "sql_flush", sql_flush)
        yield


@pytest.fixture(scope="session", autouse=True)
def static_files_on_demand() -> Iterator[None]:
    """WhiteNoise looks for a file when it is asked for. Else the client of each test would read all of them first."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(django_settings, "WHITENOISE_AUTOREFRESH", True, raising=False)
        yield


@pytest.fixture(scope="session")
def rabbitmq_url() -> str:
    """A running RabbitMQ. Whoever uses it takes a namespace of its own and removes what it declared."""
    try:
        with Connection(RABBITMQ, connect_timeout=3) as connection:
            connection.connect()
    except OSError as error:
        unavailable("RabbitMQ", error)
    return RABBITMQ


@pytest.fixture(scope="session")
def postgresql_url() -> str:
    """A running PostgreSQL server. Whoever uses it creates a database of its own and drops it."""
    try:
        psycopg2.connect(POSTGRESQL, connect_timeout=3).close()
    except psycopg2.OperationalError as error:
        unavailable("PostgreSQL", error)
    return POSTGRESQL


@pytest.fixture(scope="session")
def node() -> Callable[..., str]:
    """Runs a script of ``tests/node`` and gives what it prints: ``node("validate.mjs", "argument", given="input")``."""
    if not (NODE / "node_modules").exists():
        unavailable("tests/node", FileNotFoundError("run make .venv/installed-node, which needs Node.js"))

    def run(script: str, *arguments: str, given: str = "") -> str:
        command = ["node", str(NODE / script), *arguments]
        done = subprocess.run(command, input=given, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stderr or done.stdout
        return done.stdout

    return run


@pytest.fixture
def namespace() -> str:
    """A prefix for names on the broker that nothing else uses."""
    return f"test-{secrets.token_hex(4)}."


@pytest.fixture
def postgresql_database(postgresql_url: str) -> Iterator[str]:
    """The URL of an empty PostgreSQL database, dropped afterwards."""
    from tests.servers import own_database  # which imports this module

    with own_database(postgresql_url, f"test_{secrets.token_hex(4)}") as database:
        yield database


@pytest.fixture(autouse=True)
def data_dir(tmp_path: Path, settings: Settings) -> Path:
    """A data folder per test: no test meets another's files, or the developer's."""
    settings.DATA_DIR = tmp_path / "var"
    settings.CHOREOGRAPHY = settings.CHOREOGRAPHY | {"DATA_DIR": settings.DATA_DIR}
    settings.SANDBOX_DIR = tmp_path / "var" / "sandbox"
    return Path(settings.DATA_DIR)
