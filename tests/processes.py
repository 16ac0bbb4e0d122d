"""Real processes of the shop for tests: with an environment of their own, killed without mercy, never left over.

``eventually`` is the one place where a test waits.
"""

import atexit
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from functools import cache, partial
from pathlib import Path
from tempfile import TemporaryFile, mkdtemp
from typing import IO, Any, TypeVar

from tests.forking import Forked, can_fork, fork

ROOT = Path(__file__).resolve().parent.parent
#: The services an order goes through. The journal runs where a test asks for it: ``SHOP_SERVICES=...``.
SERVICES = tuple(
    service for service in re.findall(r"(?m)^relay-(\w+):", (ROOT / "Procfile").read_text()) if service != "journal"
)

#: Kept short of the system's patience: a process that ignores SIGTERM this long is hung, seconds.
PATIENCE = 30.0

Found = TypeVar("Found")


def eventually(
    condition: Callable[[], Found | None], within: float = 60.0, otherwise: Callable[[], Any] | None = None
) -> Found:
    """Wait until ``condition`` holds, and return what it returned.

    What takes long to look at is looked at less often: the processes that are waited for need the processor more.

    Args:
        within: seconds; a bound for a busy machine, not a promise of speed.
        otherwise: says how things stand, for the message of a failure.

    Raises:
        AssertionError: it did not hold in time.
    """
    deadline = time.monotonic() + within
    while True:
        begun = time.monotonic()
        found = condition()
        if found:
            return found
        now = time.monotonic()
        if now > deadline:
            state = f": {otherwise()}" if otherwise else f", last seen {found!r}"
            raise AssertionError(f"not within {within} s{state}")
        time.sleep(min(max(0.02, 4 * (now - begun)), 0.5))


class Process:
    """One process, in a group of its own. Its output goes to a file; it dies with the test run, however that ends."""

    def __init__(self, name: str, command: Sequence[str], environment: Mapping[str, str], log: Path) -> None:
        self.name = name
        self.log = log
        self._was_asked = False
        with log.open("ab") as output, Path(os.devnull).open("rb") as nothing:
            self._popen = _start(command, environment, nothing, output, output)

    @property
    def pid(self) -> int:
        return self._popen.pid

    @property
    def exit_code(self) -> int | None:
        """``None`` while it runs; negative: the signal that ended it."""
        return self._popen.poll()

    @property
    def lives(self) -> bool:
        return self.exit_code is None

    def says(self) -> str:
        """Everything it has written."""
        return self.log.read_text(errors="replace")

    def kill(self) -> None:
        """SIGKILL to the process and its children."""
        self._signal(signal.SIGKILL)
        self._popen.wait()

    def freeze(self) -> None:
        """SIGSTOP: it does nothing, and everyone else thinks that it works."""
        self._signal(signal.SIGSTOP)

    def thaw(self) -> None:
        self._signal(signal.SIGCONT)

    def ask_to_end(self) -> None:
        """SIGTERM, once, as a service manager sends it: of a second one Celery thinks something else."""
        if self.lives and not self._was_asked:
            self._was_asked = True
            self._popen.terminate()

    def end(self, within: float = PATIENCE) -> int:
        """Ask it to end and wait for that. Returns its exit code.

        Raises:
            AssertionError: it had to be killed.
        """
        self.ask_to_end()
        try:
            return self._popen.wait(within)
        except subprocess.TimeoutExpired:
            state = self.says()[-3000:]
            raise AssertionError(f"{self.name} did not end within {within} s of SIGTERM:\n{state}") from None
        finally:
            self.kill()

    def _signal(self, number: int) -> None:
        try:
            os.killpg(self.pid, number)
        except ProcessLookupError:
            return  # the whole group is gone


class Clerk:
    """A process that places orders and looks things up (``tests.clerk``), with the shop's own settings.

    Apart from the processes under test, and needing the databases only: it stands for the web process.
    """

    def __init__(self, environment: Mapping[str, str], log: Path, module: str = "tests.clerk") -> None:
        """``module``: whose functions answer the questions."""
        self._log = log
        its_questions, questions = os.pipe()
        answers, its_answers = os.pipe()
        self._questions, self._answers = os.fdopen(questions, "w"), os.fdopen(answers)
        environment = {**environment, "COPIES_OF_TABLES": _copies_of_tables()}
        with log.open("ab") as errors, os.fdopen(its_questions) as asked, os.fdopen(its_answers) as answered:
            self._popen = _start([sys.executable, "-m", module], environment, asked, answered, errors)

    def ask(self, question: str, **details: Any) -> Any:
        """Call a function of ``tests.clerk``. Returns what it returns, as JSON has it.

        Raises:
            AssertionError: it failed there.
        """
        self._questions.write(json.dumps([question, details]) + "\n")
        self._questions.flush()
        answer = self._answers.readline()
        if not answer:
            raise AssertionError(f"the clerk has died:\n{self._log.read_text()[-3000:]}")
        outcome = json.loads(answer)
        if "failed" in outcome:
            raise AssertionError(f"the clerk could not {question}:\n{outcome['failed']}")
        return outcome["answer"]

    def leave(self) -> None:
        with suppress(ProcessLookupError):
            os.kill(self._popen.pid, signal.SIGKILL)
        self._popen.wait()
        self._questions.close()
        self._answers.close()


@cache
def _copies_of_tables() -> str:
    """A folder for SQLite files that have tables and nothing in them, for as long as the test run lasts."""
    folder = mkdtemp(prefix="tables-")
    atexit.register(shutil.rmtree, folder)
    return folder


def make_tables(environment: Mapping[str, str], folder: Path) -> None:
    """Apply the migrations of a shop to its databases, as ``manage.py prepare`` does. ``folder`` gets the log."""
    clerk = Clerk(environment, folder / "tables.log")
    try:
        clerk.ask("make_tables")
    finally:
        clerk.leave()


class RunningShop:
    """Processes of one shop that share an environment. Create it with ``running_shop``."""

    def __init__(self, folder: Path, environment: Mapping[str, str], clerk: str) -> None:
        self.folder = folder
        self.environment = {**clean_environment(folder), **environment}
        self.processes: dict[str, Process] = {}
        self._ended: list[Process] = []
        self._clerk_module = clerk
        self._clerk: Clerk | None = None

    # Processes

    def start(self, *names: str, **environment: str) -> None:
        """Start processes by name (see ``command``); in place of those that had the name before."""
        for name in names:
            self.run(name, command(name), **environment)

    def run(self, name: str, command: Sequence[str], **environment: str) -> Process:
        """Start a process with a command of its own."""
        before = self.processes.get(name)
        assert before is None or not before.lives, f"{name} is running already"
        self._sign_of(name).unlink(missing_ok=True)
        process = Process(name, command, self.environment | environment, self.folder / f"{name}.log")
        self.processes[name] = process
        return process

    def started(self, *names: str) -> None:
        """Wait until these show that they work."""
        for name in names:
            eventually(partial(self._is_up, name), otherwise=self[name].says)

    def __getitem__(self, name: str) -> Process:
        return self.processes[name]

    def end(self, *names: str) -> None:
        """End some processes in good order, at the same time."""
        for name in names:
            self[name].ask_to_end()
        for name in names:
            assert self[name].end() == 0, f"{name} ended badly:\n{self[name].says()[-3000:]}"

    def have_ended(self) -> list[str]:
        """Names of processes that no longer run."""
        return [name for name, process in self.processes.items() if not process.lives]

    # People

    @property
    def clerk(self) -> Clerk:
        if self._clerk is None:
            self._clerk = Clerk(self.environment, self.folder / "clerk.log", self._clerk_module)
        return self._clerk

    def ask(self, question: str, **details: Any) -> Any:
        """Ask the clerk: see ``tests.clerk`` for the questions."""
        return self.clerk.ask(question, **details)

    def place(self, token: str = "tok_approved", street: str = "Main Street 1") -> str:
        """Place an order. Returns its id."""
        return str(self.ask("place", token=token, street=street))

    def wait_until_all_end(self, within: float = 120.0) -> None:
        """Every order has ended, every event was published, every message handled or parked."""
        eventually(lambda: self.ask("is_quiet"), within, otherwise=lambda: self.ask("standing"))

    # The end

    def end_all(self) -> None:
        """SIGTERM for whatever runs, all at once, because each takes its time."""
        for process in self.processes.values():
            process.ask_to_end()
        failures = list(filter(None, map(_failure_to_end, self.processes.values())))
        assert not failures, "\n".join(failures)

    def close(self) -> None:
        """Kill whatever runs."""
        for process in self.processes.values():
            process.kill()
        if self._clerk is not None:
            self._clerk.leave()

    def _is_up(self, name: str) -> bool:
        assert self[name].lives, f"{name} has ended ({self[name].exit_code}):\n{self[name].says()[-3000:]}"
        return self._sign_of(name).exists()

    def _sign_of(self, name: str) -> Path:
        return Path(self.environment["DATA_DIR"]) / "run" / f"{name}.alive"


@contextmanager
def running_shop(folder: Path, *, clerk: str = "tests.clerk", **environment: str) -> Iterator[RunningShop]:
    """A shop without processes yet, its databases and topology made. Nothing of it runs afterwards.

    Args:
        folder: gets the data folder, unless it has one, and the logs.
        clerk: the module whose functions answer what is asked.
        environment: settings of the shop.
    """
    (folder / "var").mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        shop = RunningShop(folder, environment, clerk)
        stack.callback(shop.close)
        shop.ask("open_shop")
        stack.callback(shop.ask, "close_shop")
        stack.callback(shop.end_all)
        yield shop


def clean_environment(folder: Path) -> dict[str, str]:
    """Nothing of the developer's: neither variables nor what ``.env`` says of the databases and the broker."""
    ours = {name: os.environ[name] for name in ("PATH", "HOME", "LANG", "LD_LIBRARY_PATH") if name in os.environ}
    urls = ("DATABASE_URL", "ACCOUNTS_DATABASE_URL", *(f"{service.upper()}_DATABASE_URL" for service in SERVICES))
    return (
        ours
        | dict.fromkeys((*urls, "BROKER_URL", "CHOREOGRAPHY_NAMESPACE"), "")
        | {
            "DEBUG": "true",
            "DATA_DIR": str(folder / "var"),
            "SECRET_KEY": "for tests only",
            "SHOP_SERVICES": ",".join(SERVICES),
            "SANDBOX_DELIVERY_SECONDS": "0.1",
            "SANDBOX_LATENCY_SECONDS": "0",
            "LOG_LEVEL": "INFO",
            "LOG_FORMAT": "console",
            "PYTHONUNBUFFERED": "1",
        }
    )


def worker(*services: str, name: str = "", pool: str = "threads", concurrency: int = 4) -> list[str]:
    """The command of a worker for these services, as the Procfile has it."""
    return [
        *(sys.executable, "-m", "celery", "-A", "shop", "worker", "-n", f"{name or services[0]}@%h"),
        *("-Q", ",".join(services)),
        *("--pool", pool, "--concurrency", str(concurrency), "--without-gossip", "--without-mingle"),
    ]


def command(name: str) -> list[str]:
    """``relay-orders``, ``worker-orders``, ``beat``."""
    kind, _, service = name.partition("-")
    match kind:
        case "relay":
            return [sys.executable, "manage.py", "relay", service]
        case "worker":
            return worker(service)
        case "beat":
            return [sys.executable, "-m", "celery", "-A", "shop", "beat"]
        case _:
            raise ValueError(name)


def _failure_to_end(process: Process) -> str | None:
    try:
        process.end()
    except AssertionError as error:
        return str(error)
    return None


def completed(
    command: Sequence[str], environment: Mapping[str, str], timeout: float = 240.0
) -> subprocess.CompletedProcess[str]:
    """Run a program to its end.

    Raises:
        subprocess.TimeoutExpired: it took longer, and was killed.
    """
    with Path(os.devnull).open("rb") as nothing, TemporaryFile("w+") as output, TemporaryFile("w+") as errors:
        process = _start(command, environment, nothing, output, errors)
        try:
            code = process.wait(timeout)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            raise
        output.seek(0)
        errors.seek(0)
        return subprocess.CompletedProcess([*command], code, output.read(), errors.read())


def _start(
    command: Sequence[str], environment: Mapping[str, str], stdin: IO[Any], stdout: IO[Any], stderr: IO[Any]
) -> subprocess.Popen[bytes] | Forked:
    """Start a process in the repository's folder, in a session of its own, which ends when we do."""
    if can_fork(command, environment):
        return fork(command, environment, stdin.fileno(), stdout.fileno(), stderr.fileno())
    return subprocess.Popen(
        [*_dying_with_us(), *command],
        cwd=ROOT,
        env=dict(environment),
        stdin=stdin,
        stdout=stdout,
        stderr=stderr,
        start_new_session=True,
    )


def _dying_with_us() -> Iterable[str]:
    """Where the kernel can, let it end our children when the test run itself is killed."""
    setpriv = shutil.which("setpriv")
    return [setpriv, "--pdeathsig", "KILL", "--"] if setpriv else []
