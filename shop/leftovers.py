"""Ends the processes of a launcher that was killed and could not stop them.

The launcher writes down what it has started (``record``). A guardian beside it, ``python -m shop.leftovers FOLDER``,
ends those processes when the launcher is gone; so does ``manage.py down``, whatever has become of both.
"""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

#: Seconds between SIGTERM and SIGKILL, and between two looks.
_GRACE, _LOOK = 20.0, 0.2


def record(folder: Path, launcher: int, processes: Iterable[int]) -> None:
    """Write down the process ids of a launcher and of what it has started, each with the time it was started."""
    text = json.dumps({"launcher": _identified([launcher]), "processes": _identified(processes)})
    draft = _file(folder).with_suffix(f".{os.getpid()}")
    draft.write_text(text)
    draft.replace(_file(folder))


def forget(folder: Path) -> None:
    """The launcher has stopped them all."""
    _file(folder).unlink(missing_ok=True)


def end_all(folder: Path) -> bool:
    """Stop a launcher, if it lives, and what it has left behind. Returns whether anything ran.

    A process has 20 s to end by itself, then it is killed with its children.
    """
    try:
        recorded = json.loads(_file(folder).read_text())
    except FileNotFoundError:
        return False
    launcher = _living(recorded["launcher"])
    for pid in launcher:
        os.kill(pid, signal.SIGTERM)
        _wait({str(pid): recorded["launcher"][str(pid)]})
    left = _living(recorded["processes"])
    for pid in left:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGTERM)
    _wait(recorded["processes"])
    for pid in _living(recorded["processes"]):
        with suppress(ProcessLookupError):
            os.killpg(pid, signal.SIGKILL)
    forget(folder)
    return bool(launcher or left)


def _file(folder: Path) -> Path:
    return folder / "up.json"


def _identified(pids: Iterable[int]) -> dict[str, str]:
    """When each living process was started: a process id may be another's later."""
    wanted = ",".join(map(str, pids))
    listed = subprocess.run(  # noqa: S603 (numbers)
        ["ps", "-o", "pid=,stat=,lstart=", "-p", wanted],  # noqa: S607 (wherever the system has it)
        capture_output=True,
        text=True,
        check=False,
    )
    found = (line.split(maxsplit=2) for line in listed.stdout.splitlines())
    return {pid: started for pid, state, started in found if not state.startswith("Z")}


def _living(recorded: dict[str, str]) -> list[int]:
    now = _identified(map(int, recorded)) if recorded else {}
    return [int(pid) for pid, started in recorded.items() if now.get(pid) == started]


def _wait(recorded: dict[str, str]) -> None:
    deadline = time.monotonic() + _GRACE
    while _living(recorded) and time.monotonic() < deadline:
        time.sleep(_LOOK)


def _guard(folder: Path) -> None:
    """Wait until the launcher is gone. If it has not said that it stopped everything, stop it."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # they are meant for the launcher, which ends this process
    launcher = os.getppid()
    while os.getppid() == launcher:
        time.sleep(_LOOK)
    end_all(folder)


if __name__ == "__main__":
    _guard(Path(sys.argv[1]))
