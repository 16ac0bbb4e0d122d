"""Runs the processes of the ``Procfile`` on this machine, with honcho.

honcho starts the processes, reads their output and stops all of them when one exits. ``Launcher`` adds a ``main``
function that runs in a thread beside them (wait until they are ready, place orders, print what happens), log files,
and a grace period in which workers finish their tasks.
"""

import fcntl
import logging
import os
import re
import signal
import socket
import subprocess
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

from shop import leftovers
from shop.environment import make_data_folder

HOST = "127.0.0.1"

#: Seconds between SIGTERM and SIGKILL: longer than any call to an external system takes.
GRACE = 20.0

#: Lines of output shown for a process that exited on its own.
_LAST_LINES = 15

#: Matches warnings and errors in the log formats of structlog (text and JSON) and gunicorn.
_WARNING = re.compile(r'\[(warning|error|critical) *\]|"level": ?"(warning|error|critical)"', re.IGNORECASE)

#: The timestamp of a log line. It is left out on the terminal, where lines appear as they are written.
_TIME = re.compile(r"^\d{4}-\d\d-\d\dT\S+ ")

#: Prints a line for the user.
PrintLine = Callable[[str], None]


class LaunchFailed(Exception):
    """The processes could not be started, or one of them ended by itself. The message is shown to the user."""


class InUse(LaunchFailed):
    """A port or the data folder is in use."""


def procfile(path: Path | None = None) -> dict[str, str]:
    """Name -> command of each process, without those of services that are not in ``SERVICES``."""
    text = (path or Path(settings.BASE_DIR) / "Procfile").read_text()
    absent = set(settings.ALL_SERVICES) - set(settings.SERVICES)
    processes = parse_procfile(text).processes
    return {name: command for name, command in processes.items() if name.partition("-")[2] not in absent}


def require_free(port: int, variable: str) -> None:
    """Check that no process listens on a port of this machine.

    Raises:
        InUse: one does. The message names ``variable``, which sets another port.
    """
    if not is_free(port):
        raise InUse(
            _("Port %(port)d on %(host)s is in use. Set %(variable)s to another, such as %(variable)s=%(free)d")
            % {"port": port, "host": HOST, "variable": variable, "free": free_port()}
        )


def is_free(port: int) -> bool:
    """Whether a process can listen on a port of this machine."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
        return True


def free_port() -> int:
    """A port that is not in use, chosen by the operating system."""
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])


@contextmanager
def exclusive(folder: Path) -> Iterator[None]:
    """Lock a data folder, so that only one launcher uses it.

    Raises:
        InUse: another launcher, or a process that outlived one, has the lock.
    """
    make_data_folder(folder)
    descriptor = os.open(folder / "up.lock", os.O_CREAT | os.O_RDWR, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise InUse(_("The shop is running on %s already. Stop it, or choose another DATA_DIR.") % folder) from error
    else:
        yield
    finally:
        os.close(descriptor)


class Launcher(Manager):  # type: ignore[misc]  # honcho has no types
    """Runs processes, and a function beside them.

    Args:
        commands: name -> shell command.
        environment: variables of the processes, added to this process's own.
        logs: folder of the log files, one per process.
        print_line: prints a line for the user.
        verbose: print every line of output, else only warnings and errors.
        grace: seconds between SIGTERM and SIGKILL.
    """

    def __init__(
        self,
        commands: Mapping[str, str],
        environment: Mapping[str, str],
        logs: Path,
        print_line: PrintLine,
        *,
        verbose: bool = False,
        grace: float = GRACE,
    ) -> None:
        super().__init__(printer=ProcessOutput(logs, print_line, verbose=verbose))
        self._procmgr = ProcessSignals()
        self.stopping = threading.Event()
        self.interrupted = False
        self._logs = logs
        self._grace = grace
        self._stop_begun: float | None = None
        self._exited: list[str] = []
        self._error: Exception | None = None
        for name, command in commands.items():
            self.add_process(name, command, env=_environment(environment), cwd=str(settings.BASE_DIR))

    @property
    def names(self) -> list[str]:
        """The names of the processes."""
        return list(self._processes)

    def run(self, main: Callable[["Launcher"], None]) -> None:
        """Start all processes, call ``main`` in a thread, and return when all processes have ended.

        They are stopped when ``main`` returns, when it calls ``stop``, at SIGINT, SIGTERM or SIGHUP (then
        ``interrupted`` is true), or when one of them exits. ``main`` must return soon after ``stopping`` is set.

        Raises:
            LaunchFailed: a process ended by itself.
            Exception: what ``main`` raised.
        """
        self._main = threading.Thread(target=self._call, args=[main], name="main of the launcher")
        folder = self._logs.parent
        command = [sys.executable, "-m", "shop.leftovers", str(folder)]
        guardian = subprocess.Popen(command, cwd=settings.BASE_DIR)  # noqa: S603 (our own)
        handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
        signal.signal(signal.SIGHUP, lambda *_: signal.raise_signal(signal.SIGTERM))  # the terminal was closed
        try:
            self.loop()
        except BaseException:  # leave no process running
            self.stop()
            for process in self._processes.values():
                if "pid" in process:
                    self._procmgr.kill(process["pid"])
            raise
        finally:
            for number, handler in handlers.items():
                signal.signal(number, handler)
        self._main.join()
        guardian.kill()
        guardian.wait()
        leftovers.forget(folder)
        self._printer.close()
        if self._error is not None:
            raise self._error
        if self._exited:
            raise LaunchFailed(self._exit_report())

    def stop(self) -> None:
        """Stop every process."""
        self.stopping.set()

    def last_output(self, name: str) -> str:
        """The last lines of a process's output, and the path of its log file."""
        lines = "".join(f"\n    {line}" for line in self._printer.last_lines(name))
        return lines + "\n" + _("The whole log is in %s") % (self._logs / f"{name}.log")

    # Methods of honcho's Manager, made safe to call at any time

    def terminate(self) -> None:
        """Called by the loop when a process has exited, and by honcho's signal handler."""
        if not self.stopping.is_set() and self.returncode is not None:
            self._exited = [name for name, process in self._processes.items() if "returncode" in process]
            self.interrupted = not self._exited
        self.stopping.set()
        if self._all_started():  # else there are no process ids yet; the loop calls this again
            if self._stop_begun is None:
                self._stop_begun = time.monotonic()
            super().terminate()

    def kill(self) -> None:
        """Called by the loop repeatedly, some seconds after the first process has exited."""
        if self._stop_begun is not None and time.monotonic() - self._stop_begun > self._grace:
            super().kill()

    def _any_stopped(self) -> bool:
        return self.stopping.is_set() or bool(super()._any_stopped())

    def _start(self) -> None:
        connections.close_all()  # honcho forks, and a child must not share a database connection
        super()._start()
        self._main.start()  # after the forks: forking a process with threads is not safe

    def _call(self, main: Callable[["Launcher"], None]) -> None:
        try:
            self._record_processes()
            main(self)
        except Exception as error:  # run() raises it in the main thread
            self._error = error
        finally:
            connections.close_all()
            self.stop()

    def _record_processes(self) -> None:
        """For the guardian, and for ``manage.py down``. Their ids come a moment after they were started."""
        while not self._all_started() and not self.stopping.is_set():
            self.stopping.wait(0.05)
        pids = [process["pid"] for process in self._processes.values() if "pid" in process]
        leftovers.record(self._logs.parent, os.getpid(), pids)

    def _exit_report(self) -> str:
        texts = []
        for name in self._exited:
            code = self._processes[name]["returncode"]
            how = _("killed by %s") % signal.Signals(-code).name if code < 0 else _("exit code %d") % code
            what = _("%(name)s ended by itself (%(how)s), so everything was stopped. Its last output:")
            texts.append(what % {"name": name, "how": how} + self.last_output(name))
        return "\n".join(texts)


class ProcessSignals:
    """Sends SIGTERM to a process but not to its children, which it stops itself; SIGKILL to all of them."""

    def terminate(self, pid: int) -> None:
        try:
            os.kill(pid, signal.SIGTERM)
        except ProcessLookupError:
            return  # it has exited meanwhile

    def kill(self, pid: int) -> None:
        try:
            os.killpg(pid, signal.SIGKILL)
        except ProcessLookupError:
            return


class ProcessOutput:
    """A printer in honcho's sense: gets every line of the processes' output, logs it, and prints warnings."""

    width = 0  # honcho sets it to align names

    def __init__(self, folder: Path, print_line: PrintLine, *, verbose: bool) -> None:
        self._folder = folder
        self._print_line = print_line
        self._verbose = verbose
        self._files: dict[str, RotatingFileHandler] = {}
        self._last: dict[str, deque[str]] = {}
        folder.mkdir(parents=True, exist_ok=True)

    def write(self, message: Any) -> None:
        """Handle output of a process."""
        if message.name == SYSTEM_PRINTER_NAME:
            return  # honcho's own messages; it sends some in a signal handler, where writing a file is not safe
        if message.name not in self._files:
            self._files[message.name] = RotatingFileHandler(
                self._folder / f"{message.name}.log", maxBytes=5_000_000, backupCount=1, encoding="utf-8"
            )
            self._last[message.name] = deque(maxlen=_LAST_LINES)
        text = message.data.decode("utf-8", "replace") if isinstance(message.data, bytes) else message.data
        for line in text.splitlines():
            self._files[message.name].emit(logging.makeLogRecord({"msg": line}))
            self._last[message.name].append(line)
            if self._verbose or _WARNING.search(line):
                self._print_line(f"{message.name} | {_TIME.sub('', line)}")

    def last_lines(self, name: str) -> list[str]:
        return list(self._last.get(name, ()))

    def close(self) -> None:
        for file in self._files.values():
            file.close()


def _environment(more: Mapping[str, str]) -> dict[str, str]:
    """This process's environment, with the programs of its virtual environment first on the path."""
    programs = str(Path(sys.executable).parent)
    path = os.pathsep.join([programs, os.environ.get("PATH", os.defpath)])
    return {**os.environ, "PATH": path, "PYTHONUNBUFFERED": "1", **more}
