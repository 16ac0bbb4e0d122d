"""``manage.py up`` and its like as a person starts them, and a look at what they leave behind."""

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from tests.processes import SERVICES, Process, clean_environment, completed, eventually


def manage(*arguments: str, environment: Mapping[str, str], timeout: float = 240.0) -> subprocess.CompletedProcess[str]:
    """Run ``manage.py`` to its end."""
    return completed([sys.executable, "manage.py", *arguments], environment, timeout)


def environment_in(folder: Path, **more: str) -> dict[str, str]:
    """An environment with a data folder and ports of its own."""
    ports = {"WEB_PORT": str(free_port()), "FLOWER_PORT": str(free_port())}
    return clean_environment(folder) | {"SHOP_SERVICES": ",".join((*SERVICES, "journal"))} | ports | more


@contextmanager
def up(environment: Mapping[str, str], log: Path) -> Iterator[Process]:
    """``manage.py up``, ready. Nothing of it is left afterwards."""
    process = Process("up", [sys.executable, "manage.py", "up"], environment, log)
    try:
        eventually(
            lambda: "Ctrl-C stops everything" in process.says() or not process.lives, otherwise=process.says, within=120
        )
        assert process.lives, process.says()
        yield process
    finally:
        process.kill()
        for pid in at_work(environment):
            os.kill(pid, signal.SIGKILL)


def at_work(environment: Mapping[str, str]) -> dict[int, str]:
    """Processes that have this data folder in their environment: id -> command."""
    mark = f"DATA_DIR={environment['DATA_DIR']}".encode()
    found = {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdecimal() and int(folder.name) != os.getpid():
            try:
                if mark in (folder / "environ").read_bytes().split(b"\0"):
                    found[int(folder.name)] = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode()
            except (FileNotFoundError, PermissionError, ProcessLookupError):
                continue
    return {pid: command for pid, command in found.items() if command}


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
