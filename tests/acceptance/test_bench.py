"""The benchmark, tiny: it works, every system completes every order, and a wrong result is noticed."""

import importlib.util
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from bench.__main__ import main
from tests.conftest import unavailable
from tests.processes import ROOT

pytestmark = [pytest.mark.processes, pytest.mark.slow]

#: The shop, a peer and the floor. The others run when the benchmark does, which refuses wrong results all the same.
SYSTEMS = ["ours", "dramatiq", "floor100"]
PEERS = ("faststream", "sqlalchemy", "asyncpg", "dramatiq", "matplotlib", "django_celery_outbox", "faststream_outbox")


#: A round of 20 orders, and the long ones cut short.
TINY = {
    "ORDERS": "20",
    "ROUNDS": "1",
    "IDLE": "2",
    "EVENTS": "200",
    "RATES": "20",
    "SECONDS": "1",
    "GROWTH": "1",
    "LONG": "1",
    "LONG_ORDERS": "40",
    "LONG_ROWS": "1000",
    "SYSTEMS": ",".join(SYSTEMS),
}


@pytest.fixture(autouse=True)
def _peers() -> None:
    for package in PEERS:
        if importlib.util.find_spec(package) is None:
            unavailable("The benchmark", ModuleNotFoundError(f"{package}: make .venv/installed-bench"))


def every_system_completes_every_order_and_writes_the_same_rows(out: Path, printed: str) -> None:
    runs = json.loads((out / "result.json").read_text())["runs"]

    assert [run["system"] for run in runs] == SYSTEMS
    for run in runs:
        orders = run["rows"]["orders_order"]
        assert orders == 10 + 2 + 20 + 20
        assert run["rows"] == {
            "orders_order": orders,
            "orders_orderline": 2 * orders,
            "payments_payment": orders,
            "payments_entry": 2 * orders,
            "shipping_shipment": orders,
        }


def every_figure_has_its_place_in_the_table_and_a_ratio_to_ours(out: Path, printed: str) -> None:
    document = json.loads((out / "result.json").read_text())

    rows = re.findall(r"^\| ([^|]+?) \|", printed.partition("| placed per second")[0], re.MULTILINE)
    assert rows == list(document["medians"]["ours"])
    for system in SYSTEMS:
        assert all(value > 0 for value in document["medians"][system].values()), document["medians"][system]
    assert {it["median"] for it in document["ratios_to_ours"]["ours"].values()} == {1.0}


def the_relay_is_measured_alone_and_the_long_ones_on_request(out: Path, printed: str) -> None:
    document = json.loads((out / "result.json").read_text())

    assert set(document["relay_events_per_second"]) == {"py-amqp", "ours", "floor100"}
    assert document["long"]["queue"]["memory_ratio"] > 0
    assert document["long"]["inbox"]["ratio"] > 0
    assert document["long"]["embedded"]["orders_per_second"] > 0


def rates_and_growth_are_measured(out: Path, printed: str) -> None:
    document = json.loads((out / "result.json").read_text())

    assert [(it["system"], it["rate"]) for it in document["rates"]] == [(system, 20) for system in SYSTEMS]
    assert set(document["growth"]) == {"20"}
    assert re.search(r"^\| 20 \| \d+ \d+ \d+ / \d+ \d+ \d+ \| ", printed, re.MULTILINE)


def every_target_is_judged(out: Path, printed: str) -> None:
    targets = json.loads((out / "result.json").read_text())["targets"]

    assert len(targets) == 9
    assert {target["verdict"] for target in targets} <= {"aim", "enough", "missed"}


def the_plot_is_a_picture(out: Path, printed: str) -> None:
    assert (out / "result.png").read_bytes().startswith(b"\x89PNG")


CHECKS = (
    every_system_completes_every_order_and_writes_the_same_rows,
    every_figure_has_its_place_in_the_table_and_a_ratio_to_ours,
    the_relay_is_measured_alone_and_the_long_ones_on_request,
    rates_and_growth_are_measured,
    every_target_is_judged,
    the_plot_is_a_picture,
)


@pytest.mark.longest
def test_a_round_of_everyone_with_the_long_ones_cut_short(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], subtests: pytest.Subtests
) -> None:
    """One test, so that it is measured once, whichever process of several has it."""
    for name, value in (TINY | {"OUT": str(tmp_path / "bench")}).items():
        monkeypatch.setenv(name, value)

    assert main() == 0
    printed = capsys.readouterr().out
    for check in CHECKS:
        with subtests.test(check.__name__):
            check(tmp_path / "bench", printed)


@pytest.mark.parametrize(
    ("options", "fault"),
    [
        ({"SYSTEMS": "ours,theirs"}, "SYSTEMS: there is no theirs"),
        ({"ORDERS": "many"}, "ORDERS=many: give a positive number"),
        ({"ROUNDS": "0"}, "ROUNDS=0: give a positive number"),
        ({"RATES": "10;20"}, "RATES=10;20: give positive numbers with commas"),
        ({"LONG": "inboxes"}, "LONG: there is no inboxes, only queue, inbox, embedded, or 1"),
    ],
)
def test_a_wrong_option_is_one_clear_line(tmp_path: Path, options: dict[str, str], fault: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "bench"],
        cwd=ROOT,
        env=os.environ | {"OUT": str(tmp_path)} | options,
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == 2
    assert done.stderr.startswith(fault)
    assert len(done.stderr.splitlines()) == 1
