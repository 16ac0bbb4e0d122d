"""``manage.py up`` as a person meets it: start, Ctrl-C, start again, and what it says when it can't."""

import os
import re
import signal
import socket
from pathlib import Path

import pytest

from tests.launched import at_work, environment_in, free_port, manage, up
from tests.processes import Process, eventually

pytestmark = [pytest.mark.processes, pytest.mark.slow]


def says(process: Process, text: str) -> None:
    """Wait until it has said this."""
    eventually(lambda: text in process.says(), otherwise=process.says)


def interrupted(process: Process) -> int | None:
    """Press Ctrl-C and wait for the end. Returns the exit code."""
    os.kill(process.pid, signal.SIGINT)
    eventually(lambda: not process.lives, otherwise=process.says)
    return process.exit_code


def test_what_was_in_flight_at_ctrl_c_goes_on_at_the_next_start(tmp_path: Path) -> None:
    # Long enough for everything to be stopped meanwhile, on a busy machine too.
    environment = environment_in(tmp_path, SANDBOX_DELIVERY_SECONDS="25", ADMIN_USER="boss")
    password = tmp_path / "var" / "admin-password"

    with up(environment, tmp_path / "first.log") as first:
        says(first, "announced shipment_dispatched")
        in_flight = re.findall(r"(\w{8})  shipping  announced shipment_dispatched", first.says())
        assert len(at_work(environment)) > 9
        assert interrupted(first) == 0, first.says()
        assert at_work(environment) == {}
        assert f"boss, password {password.read_text().strip()}" in first.says()
        assert password.stat().st_mode & 0o777 == 0o600
        assert f"{in_flight[0]}  orders    announced order_completed" not in first.says()

    with up(environment, tmp_path / "second.log") as second:
        says(second, f"{in_flight[0]}  orders    announced order_completed")
        assert "Placing five" not in second.says()
        assert password.read_text().strip() not in second.says()
        assert f"boss, password in {password}" in second.says()
        assert second.end() == 0, second.says()
        assert at_work(environment) == {}


def test_a_process_that_dies_is_named_with_what_it_said_last(tmp_path: Path) -> None:
    environment = environment_in(tmp_path, SHOP_SERVICES="orders")

    with up(environment, tmp_path / "up.log") as process:
        (victim,) = [pid for pid, command in at_work(environment).items() if "manage.py relay orders" in command]
        os.kill(victim, signal.SIGKILL)
        eventually(lambda: not process.lives, otherwise=process.says)

        assert process.exit_code == 1
        assert "relay-orders ended by itself (killed by SIGKILL), so everything was stopped" in process.says()
        assert str(tmp_path / "var" / "log" / "relay-orders.log") in process.says()
        assert at_work(environment) == {}


def test_a_second_start_is_refused_and_the_first_can_be_stopped_from_another_terminal(tmp_path: Path) -> None:
    environment = environment_in(tmp_path, SHOP_SERVICES="orders")

    with up(environment, tmp_path / "up.log") as process:
        other_ports = {"WEB_PORT": str(free_port()), "FLOWER_PORT": str(free_port())}
        result = manage("up", environment=environment | other_ports)

        assert result.returncode == 2
        where = environment["DATA_DIR"]
        assert f"The shop is running on {where} already. Stop it, or choose another DATA_DIR." in result.stderr
        assert len(result.stderr.splitlines()) == 1

        assert manage("down", environment=environment).returncode == 0

        eventually(lambda: not process.lives, otherwise=process.says)
        assert process.exit_code == 0, process.says()
        assert at_work(environment) == {}


@pytest.mark.parametrize("variable", ["WEB_PORT", "FLOWER_PORT"])
def test_a_taken_port_is_refused_before_anything_is_done(tmp_path: Path, variable: str) -> None:
    environment = environment_in(tmp_path)
    with socket.create_server(("127.0.0.1", int(environment[variable]))):
        result = manage("up", environment=environment)

    assert result.returncode == 2
    assert len(result.stderr.splitlines()) == 1
    assert f"Port {environment[variable]} on 127.0.0.1 is in use. Set {variable} to another" in result.stderr
    assert not (tmp_path / "var" / "accounts.sqlite3").exists()


def test_what_is_no_port_is_refused(tmp_path: Path) -> None:
    result = manage("up", environment=environment_in(tmp_path, WEB_PORT="high"))

    assert result.returncode == 1
    assert result.stderr.strip() == "CommandError: WEB_PORT is high, which is not a port number."


def test_nothing_outlives_a_launcher_that_was_killed(tmp_path: Path) -> None:
    environment = environment_in(tmp_path, SHOP_SERVICES="orders")
    with up(environment, tmp_path / "first.log") as first:
        assert len(at_work(environment)) > 3

        os.kill(first.pid, signal.SIGKILL)

        eventually(lambda: at_work(environment) == {}, otherwise=lambda: at_work(environment))
    with up(environment, tmp_path / "second.log") as second:
        assert second.end() == 0, second.says()


def test_what_is_left_can_be_stopped_by_hand(tmp_path: Path) -> None:
    environment = environment_in(tmp_path, SHOP_SERVICES="orders")
    with up(environment, tmp_path / "up.log") as process:
        (guardian,) = [pid for pid, command in at_work(environment).items() if "shop.leftovers" in command]
        os.kill(guardian, signal.SIGKILL)
        os.kill(process.pid, signal.SIGKILL)
        eventually(lambda: not process.lives)
        assert len(at_work(environment)) > 3

        assert manage("down", environment=environment).stdout == ""

        eventually(lambda: at_work(environment) == {}, otherwise=lambda: at_work(environment))
    assert manage("down", environment=environment).stdout == "Nothing runs.\n"
