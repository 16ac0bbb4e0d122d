"""The launcher: ports, the lock on the data folder, and a few small processes of all characters."""

import os
import re
import signal
import socket
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import honcho.manager
import pytest
from pytest_django.fixtures import Settings

from shop.launcher import InUse, Launcher, LaunchFailed, exclusive, free_port, is_free, procfile, require_free
from shop.running import available_ports, required_ports
from tests.processes import command, eventually

POLITE = "exec sleep 30"
STUBBORN = "trap '' TERM; echo deaf; while true; do sleep 0.1; done"


@pytest.fixture
def told() -> list[str]:
    """What a person is shown."""
    return []


Launch = Callable[..., Launcher]


@pytest.fixture
def launch(tmp_path: Path, told: list[str]) -> Launch:
    def make(verbose: bool = False, grace: float = 20.0, **commands: str) -> Launcher:
        return Launcher(commands, {"COLOUR": "blue"}, tmp_path / "log", told.append, verbose=verbose, grace=grace)

    return make


@pytest.mark.parametrize("name", [name for name in procfile() if name not in ("web", "flower")])
def test_tests_and_the_bench_start_processes_as_the_procfile_does(name: str) -> None:
    line = re.sub(r"\$\{\w+:-(\w+)\}", r"\1", procfile()[name]).removeprefix("exec ")
    _, *words = line.removesuffix(" --loglevel INFO").split()  # the shop's settings say what is logged

    started = command(name)

    assert started[-len(words) :] == words
    assert started[: -len(words)] in ([sys.executable], [sys.executable, "-m", "celery"])


def test_everything_ends_when_the_story_ends(launch: Launch) -> None:
    launcher = launch(one=POLITE, other=POLITE)

    launcher.run(lambda _: None)

    assert not launcher.interrupted
    assert {process["returncode"] for process in launcher._processes.values()} == {-signal.SIGTERM}


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_everything(launch: Launch, number: int) -> None:
    launcher = launch(one=POLITE, other=POLITE)

    def story(running: Launcher) -> None:
        os.kill(os.getpid(), number)
        assert running.stopping.wait(10)

    launcher.run(story)

    assert launcher.interrupted


def test_a_signal_at_the_very_beginning_ends_everything(launch: Launch, monkeypatch: pytest.MonkeyPatch) -> None:
    launcher = launch(one=POLITE, other=POLITE)
    start = launcher._start

    def interrupted_start() -> None:
        os.kill(os.getpid(), signal.SIGINT)
        start()

    monkeypatch.setattr(launcher, "_start", interrupted_start)

    launcher.run(lambda running: None)

    assert launcher.interrupted


def test_the_callers_own_signal_handlers_come_back(launch: Launch) -> None:
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)]

    launch(one=POLITE).run(lambda _: None)

    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)] == before


def test_a_process_that_ends_by_itself_ends_everything_and_is_named(launch: Launch, tmp_path: Path) -> None:
    launcher = launch(steady=POLITE, fragile="echo about to fall; exit 3")

    def story(running: Launcher) -> None:
        assert running.stopping.wait(10)

    with pytest.raises(LaunchFailed) as failure:
        launcher.run(story)

    assert "fragile ended by itself (exit code 3), so everything was stopped. Its last output:" in str(failure.value)
    assert "    about to fall" in str(failure.value)
    assert "steady" not in str(failure.value)
    assert str(tmp_path / "log" / "fragile.log") in str(failure.value)


def test_a_process_that_will_not_end_is_killed(launch: Launch, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(honcho.manager, "KILL_WAIT", 0.2)
    launcher = launch(grace=0.3, deaf=STUBBORN)

    launcher.run(lambda _: wait_for(tmp_path / "log" / "deaf.log", "deaf"))

    assert launcher._processes["deaf"]["returncode"] == -signal.SIGKILL


def test_a_process_gets_time_to_end(launch: Launch, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(honcho.manager, "KILL_WAIT", 0.1)
    launcher = launch(slow="trap 'sleep 0.5; echo finished; exit 0' TERM; echo busy; while true; do sleep 0.1; done")

    launcher.run(lambda _: wait_for(tmp_path / "log" / "slow.log", "busy"))

    assert "finished" in (tmp_path / "log" / "slow.log").read_text()
    assert launcher._processes["slow"]["returncode"] == 0


def test_a_story_that_fails_ends_everything_and_fails_the_run(launch: Launch) -> None:
    def story(_: Launcher) -> None:
        raise LaunchFailed("it did not come up")

    with pytest.raises(LaunchFailed, match="it did not come up"):
        launch(one=POLITE).run(story)


def test_what_processes_say_is_kept_and_alarms_are_shown(launch: Launch, told: list[str], tmp_path: Path) -> None:
    talk = """
        echo '2026-01-01T00:00:00Z [info     ] all is well'
        echo '2026-01-01T00:00:00Z [warning  ] careful'
        echo '{"level": "error"}'
    """
    launcher = launch(talker=talk + POLITE)

    launcher.run(lambda _: wait_for(tmp_path / "log" / "talker.log", "error"))

    assert "all is well" in (tmp_path / "log" / "talker.log").read_text()
    assert told == ["talker | [warning  ] careful", 'talker | {"level": "error"}']


def test_everything_is_shown_to_those_who_ask(launch: Launch, told: list[str], tmp_path: Path) -> None:
    launcher = launch(verbose=True, talker=f"echo $COLOUR; {POLITE}")

    launcher.run(lambda _: wait_for(tmp_path / "log" / "talker.log", "blue"))

    assert told == ["talker | blue"]


def test_one_launcher_at_a_time_uses_a_folder(tmp_path: Path) -> None:
    with exclusive(tmp_path), pytest.raises(InUse, match="is running on"), exclusive(tmp_path):
        pass

    with exclusive(tmp_path):
        pass


def test_a_port_in_use_is_refused_with_the_variable_that_changes_it(taken_port: int) -> None:
    with pytest.raises(InUse, match=f"Port {taken_port} on 127.0.0.1 is in use. Set WEB_PORT to another"):
        require_free(taken_port, "WEB_PORT")

    require_free(free_port(), "WEB_PORT")


@pytest.mark.parametrize("value", ["0", "65536", "-1", "http"])
def test_what_is_no_port_is_refused(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLOWER_PORT", value)

    with pytest.raises(LaunchFailed, match=f"FLOWER_PORT is {value}, which is not a port number"):
        required_ports()


def test_another_port_is_found_where_the_usual_one_is_taken(taken_port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    free = free_port()
    monkeypatch.setenv("WEB_PORT", str(taken_port))
    monkeypatch.setenv("FLOWER_PORT", str(free))

    web, flower = available_ports()

    assert web != taken_port
    assert is_free(web)
    assert flower == free


def test_only_processes_of_the_services_that_are_there_are_started(settings: Settings) -> None:
    assert {"web", "relay-orders", "worker-shipping", "beat", "flower"} <= procfile().keys()

    settings.SERVICES = ("payments",)

    assert procfile().keys() == {"web", "relay-payments", "worker-payments", "beat", "flower"}


@pytest.fixture
def taken_port() -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield int(server.getsockname()[1])


def wait_for(log: Path, text: str) -> None:
    eventually(lambda: log.exists() and text in log.read_text(), within=10)
