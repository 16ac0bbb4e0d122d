"""Processes that tests fork from one with the libraries imported are like those that are started anew."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.forking import Forked, can_fork, fork
from tests.processes import clean_environment, command, completed

CHECK = [sys.executable, "manage.py", "check"]


@pytest.fixture
def nothing() -> Iterator[int]:
    file = os.open(os.devnull, os.O_RDWR)
    yield file
    os.close(file)


def started(words: list[str], folder: Path, nothing: int, **environment: str) -> Forked:
    return fork(words, clean_environment(folder) | environment, nothing, nothing, nothing)


def test_what_it_prints_and_how_it_ends_is_told_apart(tmp_path: Path) -> None:
    done = completed(CHECK, clean_environment(tmp_path))
    assert (done.returncode, done.stderr) == (0, "")
    assert "no issues" in done.stdout

    failed = completed([*CHECK, "--no-such-option"], clean_environment(tmp_path))
    assert (failed.returncode, failed.stdout) == (2, "")
    assert "unrecognized arguments: --no-such-option" in failed.stderr


def test_each_has_an_environment_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHOP_SERVICES", "nobody knows this")
    assert completed(CHECK, clean_environment(tmp_path)).returncode == 0
    refused = completed(CHECK, clean_environment(tmp_path) | {"SHOP_SERVICES": "bakery"})
    assert "bakery" in refused.stderr


def test_it_leads_a_session_and_ends_by_signals(tmp_path: Path, nothing: int) -> None:
    relay = started(command("relay-orders"), tmp_path, nothing)
    assert os.getsid(relay.pid) == relay.pid
    assert relay.poll() is None
    with pytest.raises(subprocess.TimeoutExpired):
        relay.wait(0)
    os.killpg(relay.pid, signal.SIGKILL)
    assert relay.wait(30) == relay.poll() == -signal.SIGKILL


def test_only_programs_of_the_shop_are_forked_and_only_with_its_own_code(tmp_path: Path) -> None:
    environment = clean_environment(tmp_path)
    assert can_fork(command("worker-orders"), environment)
    assert not can_fork([sys.executable, "-m", "tests.skewed"], environment), "it comes before the libraries"
    assert not can_fork(["psql"], environment)
    assert not can_fork(command("worker-orders"), environment | {"PYTHONPATH": "/an/older/release"})
