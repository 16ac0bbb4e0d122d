"""A process that has the libraries imported, and of which processes of the shop are forked.

Until a process of the shop works, it spends most of its time on importing Django, Celery and the like, and tests start
hundreds of them. What is forked here is a process like any other, with a session, an environment and files of its own;
nothing of the shop and its services was imported before, and of the machinery only what reads no settings.
"""

import atexit
import ctypes
import gc
import importlib
import json
import os
import runpy
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path

#: What processes of the shop import. Nothing that needs settings at import.
LIBRARIES = [
    "annotated_types",
    "babel.numbers",
    "celery.apps.beat",
    "celery.apps.worker",
    "celery.bin.celery",
    "celery.concurrency.prefork",
    "celery.concurrency.thread",
    "celery.fixups.django",
    "celery.loaders.app",
    "celery.worker.components",
    "celery.worker.consumer",
    "choreography.broker.embedded.transport",
    "choreography.events.catalog",
    "choreography.events.flow_checks",
    "choreography.management.commands.relay",
    "choreography.operations.asyncapi",
    "choreography.operations.checks",
    "choreography.worker.setup",
    "csp.middleware",
    "django.contrib.admin.helpers",
    "django.contrib.admin.sites",
    "django.contrib.postgres.fields",
    "django.contrib.sessions.backends.base",
    "django.contrib.staticfiles.finders",
    "django.core.handlers.wsgi",
    "django.core.management.commands.makemigrations",
    "django.db.backends.postgresql.base",
    "django.db.backends.sqlite3.base",
    "django.db.migrations.executor",
    "django.template.defaulttags",
    "django.views.generic",
    "django_htmx.middleware",
    "django_structlog.middlewares",
    "environ",
    "gunicorn.app.wsgiapp",
    "jsoncompat",
    "kombu.transport.pyamqp",
    "prometheus_client.multiprocess",
    "psycopg2.extras",
    "pydantic.json_schema",
    "pydantic.type_adapter",
    "python_ipware",
    "rich.console",
    "structlog",
    "uuid_utils.compat",
    "whitenoise.middleware",
]

ROOT = Path(__file__).resolve().parent.parent
#: Modules and files that may be run in a process with the libraries imported. Others may want to come before them.
FORKABLE = {"celery", "gunicorn", "manage.py", "tests.clerk", "tests.chaos.audit", "tests.chaos.people"}
_PR_SET_PDEATHSIG = 1


class Forked:
    """A forked process, with what is used of ``subprocess.Popen``."""

    def __init__(self, status: int) -> None:
        """``status``: a pipe on which its process id comes, and its exit code when it has ended."""
        self._status = status
        self._said = b""
        pid = self._number()
        assert pid is not None
        self.pid = pid
        self._exit_code: int | None = None

    def poll(self) -> int | None:
        return self._ended_within(0)

    def wait(self, timeout: float | None = None) -> int:
        code = self._ended_within(timeout)
        if code is None:
            raise subprocess.TimeoutExpired(f"process {self.pid}", timeout or 0)
        return code

    def terminate(self) -> None:
        if self.poll() is None:
            os.kill(self.pid, signal.SIGTERM)

    def _ended_within(self, timeout: float | None) -> int | None:
        if self._exit_code is None:
            self._exit_code = self._number(timeout)
            if self._exit_code is not None:
                os.close(self._status)
        return self._exit_code

    def _number(self, timeout: float | None = None) -> int | None:
        """The next number that comes, or nothing if none does within ``timeout`` seconds."""
        until = None if timeout is None else time.monotonic() + timeout
        while b"\n" not in self._said:
            left = None if until is None else max(until - time.monotonic(), 0)
            if not select.select([self._status], [], [], left)[0]:
                return None
            more = os.read(self._status, 100)
            assert more, "the process that forks has ended"
            self._said += more
        number, _, self._said = self._said.partition(b"\n")
        return int(number)


def can_fork(command: Sequence[str], environment: Mapping[str, str]) -> bool:
    """Whether this is a program of the shop, run by tests with this interpreter as it is.

    ``make chaos`` starts processes as an operator does.
    """
    program = next((word for word in command[1:] if word != "-m"), "")
    is_as_it_is = command[0] == sys.executable and "PYTHONPATH" not in environment
    return is_as_it_is and program in FORKABLE and "pytest" in sys.modules


def fork(command: Sequence[str], environment: Mapping[str, str], stdin: int, stdout: int, stderr: int) -> Forked:
    """Run ``command`` in the repository's folder, with these files."""
    status, told = os.pipe()
    try:
        request = json.dumps({"command": [*command[1:]], "environment": dict(environment)}).encode()
        socket.send_fds(_forking_process(), [request], [told, stdin, stdout, stderr])
    finally:
        os.close(told)
    return Forked(status)


@cache
def _forking_process() -> socket.socket:
    """The other end of the one that this test run has. It ends when this one does."""
    ours, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with its:
        process = subprocess.Popen(
            [sys.executable, "-u", "-m", "tests.forking", str(its.fileno())],
            cwd=ROOT,
            pass_fds=[its.fileno()],
            stdin=subprocess.DEVNULL,
            start_new_session=True,
        )
    atexit.register(process.wait)
    atexit.register(ours.close)
    return ours


def _serve(channel: socket.socket) -> tuple[list[str], dict[str, str]]:
    """Fork what is asked for, and tell what becomes of it. Returns in each forked process, with what it is to run."""
    woken, wake = os.pipe2(os.O_NONBLOCK)
    signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    children: dict[int, int] = {}
    while True:
        ready, _, _ = select.select([channel.fileno(), woken], [], [])
        if woken in ready:
            os.read(woken, 1000)
            _tell_who_has_ended(children)
        if channel.fileno() in ready:
            request, files, _, _ = socket.recv_fds(channel, 1_000_000, 4)
            if not request:
                raise SystemExit
            status, *standard = files
            pid = os.fork()
            if not pid:
                signal.set_wakeup_fd(-1)
                signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                _take(standard, status, also_open=[channel.detach(), woken, wake, *children.values()])
                asked = json.loads(request)
                return asked["command"], asked["environment"]
            children[pid] = status
            for file in standard:
                os.close(file)


def _tell_who_has_ended(children: dict[int, int]) -> None:
    while children:
        pid, how = os.waitpid(-1, os.WNOHANG)
        if not pid:
            return
        status = children.pop(pid)
        with suppress(BrokenPipeError):  # nobody asks any more
            os.write(status, b"%d\n" % os.waitstatus_to_exitcode(how))
        os.close(status)


def _take(standard: Sequence[int], status: int, also_open: Sequence[int]) -> None:
    """Become a process with a session and files of its own, which ends with the one it was forked from, and say so."""
    os.setsid()
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    for number, file in enumerate(standard):
        os.dup2(file, number)
    os.write(status, b"%d\n" % os.getpid())
    for file in (status, *standard, *also_open):
        os.close(file)


class _Exit:
    """Ends a process at once where the interpreter, having done what is due at exit, would free all it has imported.

    That takes a tenth of a second in each process. Made before anything else asks to be called at exit: called last.
    """

    def __init__(self) -> None:
        self.code: int | None = None
        atexit.register(self._leave)

    def _leave(self) -> None:
        if self.code is not None:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(self.code)


def _run(command: list[str], environment: Mapping[str, str]) -> None:
    os.environ.clear()
    os.environ.update(environment)
    is_module = command[0] == "-m"
    program, *arguments = command[is_module:]
    sys.argv = [program, *arguments]
    if is_module:
        runpy.run_module(program, run_name="__main__", alter_sys=True)
    else:
        runpy.run_path(program, run_name="__main__")


def main() -> None:
    at_exit = _Exit()
    for name in LIBRARIES:
        importlib.import_module(name)
    gc.collect()
    gc.freeze()
    command = _serve(socket.socket(fileno=int(sys.argv[1])))
    try:
        _run(*command)
        at_exit.code = 0
    except SystemExit as end:
        at_exit.code = end.code if isinstance(end.code, int) else 0 if end.code is None else None
        raise


if __name__ == "__main__":
    main()
