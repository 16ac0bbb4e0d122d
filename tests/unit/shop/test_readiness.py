"""Waiting until processes are really ready, and saying which of them is not."""

from pathlib import Path

import pytest

from choreography.core import liveness
from shop import readiness
from shop.launcher import Launcher, LaunchFailed, free_port
from shop.readiness import Flower, reset_liveness, wait_until_ready

NOWHERE = f"http://127.0.0.1:{free_port()}/"


@pytest.fixture
def told() -> list[str]:
    return []


def wait_for(commands: dict[str, str], told: list[str], data_dir: Path) -> None:
    """Run these and wait until they are ready."""
    launcher = Launcher(commands, {"DATA_DIR": str(data_dir)}, data_dir / "log", told.append)
    flower = Flower(NOWHERE, "admin", "")
    launcher.run(lambda running: told.append(str(wait_until_ready(running, NOWHERE, flower, told.append))))


def test_a_process_is_ready_when_it_has_shown_that_it_lives(told: list[str], data_dir: Path) -> None:
    liveness.show("relay-orders")  # makes the folder
    reset_liveness(["relay-orders"])

    wait_for({"relay-orders": "touch $DATA_DIR/run/relay-orders.alive; exec sleep 30"}, told, data_dir)

    assert told[0].endswith("s  relay-orders is ready")
    assert told[1:] == ["True"]


def test_what_an_earlier_process_showed_does_not_count(data_dir: Path) -> None:
    liveness.show("beat")

    reset_liveness(["beat"])

    assert liveness.age("beat") is None


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("relay-orders", "it has not reported that it runs"),
        ("web", "Connection refused"),
        ("flower", "Connection refused"),
    ],
)
def test_a_process_that_does_not_come_up_is_named_with_what_it_said(
    name: str, why: str, told: list[str], data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(readiness, "LIMIT", 0.5)

    with pytest.raises(LaunchFailed) as failure:
        wait_for({name: "echo here I am; exec sleep 30"}, told, data_dir)

    assert f"{name} is not ready after 0.5 s: " in str(failure.value)
    assert why in str(failure.value)
    assert "    here I am" in str(failure.value)


def test_waiting_ends_when_a_process_dies(told: list[str], data_dir: Path) -> None:
    with pytest.raises(LaunchFailed, match="beat ended by itself"):
        wait_for({"beat": "exit 1", "web": "exec sleep 30"}, told, data_dir)

    assert told == ["False"]
