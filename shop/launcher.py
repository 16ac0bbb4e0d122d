"""Runs the shop's processes (``Procfile``) under honcho, on this machine, until someone or something stops them.

honcho starts the processes, reads what they say and stops all of them when one stops. What is added here: a *story*
runs beside them (wait until they are ready, place orders, tell what happens), what they say goes to files, and
workers get the time to finish what they are doing.
"""

import fcntl
import logging
import os
import re
import signal
import socket
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from logging.handlers import RotatingFileHandler
from pathlib import Path
from typing import Any

from django.conf import settings
from django.db import connections
from django.utils.translation import gettext as _
from honcho.environ import parse_procfile
from honcho.manager import SYSTEM_PRINTER_NAME, Manager

HOST = "127.0.0.1"

#: Seconds the processes get to end by themselves: more than any call to the outside world takes.
GRACE = 20.0

#: What a process said last is shown when it dies: so many lines.
_LAST_LINES = 15

#: A log line that people should see at once. structlog as text, structlog as JSON, gunicorn.
_ALARMING = re.compile(r'\[(warning|error|critical) *\]|"level": ?"(warning|error|critical)"', re.IGNORECASE)

#: Left out where people watch the lines as they come.
_TIME = re.compile(r"^\d{4}-\d\d-\d\dT\S+ ")

Tell = Callable[[str], None]


class LaunchFailed(Exception):
    """The processes could not be started, or one of them ended by itself. The message is for people."""


class Occupied(LaunchFailed):
    """A port or the data folder is in use."""


def procfile(path: Path | None = None) -> dict[str, str]:
    """The processes of the services this installation has: name -> command."""
    text = (path or Path(settings.BASE_DIR) / "Procfile").read_text()
    absent = set(settings.ALL_SERVICES) - set(settings.SERVICES)
    processes = parse_procfile(text).processes
    return {name: command for name, command in processes.items() if name.partition("-")[2] not in absent}


def require_free(port: int, variable: str) -> None:
    """Raise ``Occupied`` if something listens on a port of this machine."""
    if not is_free(port):
        raise Occupied(
            _("Port %(port)d on %(host)s is in use. Set %(variable)s to another, such as %(variable)s=%(free)d")
            % {"port": port, "host": HOST, "variable": variable, "free": free_port()}
        )


def is_free(port: int) -> bool:
    with socket.socket() as attempt:
        attempt.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            attempt.bind((HOST, port))
        except OSError:
            return False
        return True


def free_port() -> int:
    """A port nobody listens on at this moment."""
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Only one launcher at a time uses a data folder.

    Raises:
        Occupied: another one does, or processes it has left behind.
    """
    folder.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(folder / "up.lock", os.O_CREAT | os.O_RDWR, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise Occupied(_("The shop is running on %s already. Stop it, or choose another DATA_DIR.") % folder) from error
    else:
        yield
    finally:
        os.close(descriptor)


class Launcher(Manager):  # type: ignore[misc]  # honcho has no types
    """The processes, and the story beside them.

    Args:
        commands: name -> shell command.
        environment: what the processes find in their environment besides this process's own.
        logs: folder for what they say, a file each.
        tell: shows a line to a person.
        verbose: show every line they say; else only warnings and errors.
    """

    def __init__(
        self,
        commands: Mapping[str, str],
        environment: Mapping[str, str],
        logs: Path,
        tell: Tell,
        *,
        verbose: bool = False,
        grace: float = GRACE,
    ) -> None:
        super().__init__(printer=Listener(logs, tell, verbose=verbose))
        self._procmgr = Signals()
        self.stopping = threading.Event()
        self.interrupted = False
        self._logs = logs
        self._tell = tell
        self._grace = grace
        self._stop_begun: float | None = None
        self._died: list[str] = []
        self._story_failed: Exception | None = None
        for name, command in commands.items():
            self.add_process(name, command, env=_environment(environment), cwd=str(settings.BASE_DIR))

    @property
    def names(self) -> list[str]:
        return list(self._processes)

    def run(self, story: Callable[["Launcher"], None]) -> None:
        """Start everything, run ``story`` in a thread, and return when all processes have ended.

        They end when the story calls ``stop``, at SIGINT or SIGTERM (then ``interrupted`` is true), or when one of
        them does. The story should return soon after ``stopping`` is set.

        Raises:
            LaunchFailed: a process ended by itself.
            Exception: whatever the story raised.
        """
        self._story = threading.Thread(target=self._run, args=[story], name="story")
        handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
        signal.signal(signal.SIGHUP, lambda *_: signal.raise_signal(signal.SIGTERM))  # the terminal was closed
        try:
            self.loop()
        except BaseException:  # whatever went wrong here, no process is left behind
            self.stop()
            for process in self._processes.values():
                if "pid" in process:
                    self._procmgr.kill(process["pid"])
            raise
        finally:
            for number, handler in handlers.items():
                signal.signal(number, handler)
        self._story.join()
        self._printer.close()
        if self._story_failed is not None:
            raise self._story_failed
        if self._died:
            raise LaunchFailed(self._obituary())

    def stop(self) -> None:
        """Ask every process to end."""
        self.stopping.set()

    def last_words(self, name: str) -> str:
        """What a process said last, and where the rest is."""
        said = "".join(f"\n    {line}" for line in self._printer.last_lines(name))
        return said + "\n" + _("All it said is in %s") % (self._logs / f"{name}.log")

    # honcho's own methods, made safe to be called at any time

    def terminate(self) -> None:
        """Called by the loop when a process has ended, and by honcho's signal handler."""
        if not self.stopping.is_set() and self.returncode is not None:
            self._died = [name for name, process in self._processes.items() if "returncode" in process]
            self.interrupted = not self._died
        self.stopping.set()
        if self._all_started():  # else there are no process ids yet: the loop comes back to it
            if self._stop_begun is None:
                self._stop_begun = time.monotonic()
            super().terminate()

    def kill(self) -> None:
        """Called by the loop again and again, some time after the first process has ended."""
        if self._stop_begun is not None and time.monotonic() - self._stop_begun > self._grace:
            super().kill()

    def _any_stopped(self) -> bool:
        return self.stopping.is_set() or bool(super()._any_stopped())

    def _start(self) -> None:
        connections.close_all()  # honcho forks: no child may share a connection
        super()._start()
        self._story.start()  # only now: forking a process with threads is not safe

    def _run(self, story: Callable[["Launcher"], None]) -> None:
        try:
            story(self)
        except Exception as error:  # raised again by run, in the main thread
            self._story_failed = error
        finally:
            connections.close_all()
            self.stop()

    def _obituary(self) -> str:
        texts = []
        for name in self._died:
            code = self._processes[name]["returncode"]
            how = _("killed by %s") % signal.Signals(-code).name if code < 0 else _("exit code %d") % code
            what = _("%(name)s ended by itself (%(how)s), so everything was stopped. It said last:")
            texts.append(what % {"name": name, "how": how} + self.last_words(name))
        return "\n".join(texts)


class Signals:
    """How a process is asked to end: itself, and not its children, which it ends in its own way."""

    def terminate(self, pid: int) -> None:
        try:
            os.kill(pid, signal.SIGTERM)
        except ProcessLookupError:
            return  # it has ended meanwhile

    def kill(self, pid: int) -> None:
        try:
            os.killpg(pid, signal.SIGKILL)
        except ProcessLookupError:
            return


class Listener:
    """What honcho calls a printer: gets every line the processes say."""

    width = 0  # honcho sets it, to align names

    def __init__(self, folder: Path, tell: Tell, *, verbose: bool) -> None:
        self._folder = folder
        self._tell = tell
        self._verbose = verbose
        self._files: dict[str, RotatingFileHandler] = {}
        self._last: dict[str, deque[str]] = {}
        folder.mkdir(parents=True, exist_ok=True)

    def write(self, message: Any) -> None:
        if message.name == SYSTEM_PRINTER_NAME:
            return  # honcho's own remarks. It makes some inside its signal handler, where writing is not safe
        if message.name not in self._files:
            self._files[message.name] = RotatingFileHandler(
                self._folder / f"{message.name}.log", maxBytes=5_000_000, backupCount=1, encoding="utf-8"
            )
            self._last[message.name] = deque(maxlen=_LAST_LINES)
        text = message.data.decode("utf-8", "replace") if isinstance(message.data, bytes) else message.data
        for line in text.splitlines():
            self._files[message.name].emit(logging.makeLogRecord({"msg": line}))
            self._last[message.name].append(line)
            if self._verbose or _ALARMING.search(line):
                self._tell(f"{message.name} | {_TIME.sub('', line)}")

    def last_lines(self, name: str) -> list[str]:
        return list(self._last.get(name, ()))

    def close(self) -> None:
        for file in self._files.values():
            file.close()


def _environment(more: Mapping[str, str]) -> dict[str, str]:
    """This process's environment, in which ``python`` and ``celery`` are those of the same virtual environment."""
    programs = str(Path(sys.executable).parent)
    path = os.pathsep.join([programs, os.environ.get("PATH", os.defpath)])
    return {**os.environ, "PATH": path, "PYTHONUNBUFFERED": "1", **more}
