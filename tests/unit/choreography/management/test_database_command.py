"""Commands that need a database which is not there, or has no tables yet, say so in one line."""

import os
from pathlib import Path

import pytest

from tests.launched import manage

pytestmark = pytest.mark.processes

COMMANDS = ("dead_letters list", "choreography release orders", "choreography send_again orders", "journal backfill")


def said(command: str, data_dir: Path, **variables: str) -> str:
    """What a command that fails says, where ``data_dir`` is empty."""
    environment = {"PATH": os.environ["PATH"], "DEBUG": "true", "DATA_DIR": str(data_dir)} | variables
    result = manage(*command.split(), environment=environment)
    assert result.returncode == 1
    return result.stderr


@pytest.mark.parametrize("command", COMMANDS)
def test_missing_migrations_are_named_with_the_command(command: str, tmp_path: Path) -> None:
    stderr = said(command, tmp_path, SHOP_SERVICES="orders,journal")

    assert stderr.startswith("CommandError: The database lacks migrations: ")
    assert "orders.0001_initial" in stderr
    assert len(stderr.splitlines()) == 1


@pytest.mark.parametrize("command", COMMANDS)
def test_a_database_that_is_down_is_named_in_one_line(command: str, tmp_path: Path) -> None:
    stderr = said(command, tmp_path, DATABASE_URL="postgres://postgres@127.0.0.1:1/shop")

    assert stderr.startswith("CommandError: A database can't be reached: connection to server at ")
    assert stderr.endswith("Start it, or check its DATABASE_URL.\n")
    assert len(stderr.splitlines()) == 1
