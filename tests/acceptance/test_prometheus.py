"""Prometheus itself, where it is installed, with the configuration and the alerts of ``deploy/monitoring``."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote
from urllib.request import urlopen

import pytest

from tests.browser import answers, open_web
from tests.processes import Process, RunningShop, eventually, running_shop
from tests.servers import free_ports

pytestmark = [pytest.mark.processes, pytest.mark.slow]

MONITORING = Path(__file__).resolve().parents[2] / "deploy" / "monitoring"
PROMETHEUS = shutil.which("prometheus")
TOKEN = "for this test only"


@pytest.fixture
def shop(tmp_path: Path) -> Iterator[RunningShop]:
    with running_shop(tmp_path / "shop", METRICS_TOKEN=TOKEN, METRICS_ALLOWED="192.0.2.1") as shop:
        yield shop


@pytest.fixture
def prometheus(shop: RunningShop, tmp_path: Path) -> str:
    """Its address. It scrapes once a second instead of every fifteen."""
    if PROMETHEUS is None:
        pytest.skip("Prometheus is not installed")
    web = open_web(shop).removeprefix("http://")
    folder = tmp_path / "monitoring"
    shutil.copytree(MONITORING, folder)
    config = (folder / "prometheus.yml").read_text()
    (folder / "prometheus.yml").write_text(config.replace("127.0.0.1:8000", web).replace("15s", "1s"))
    (folder / "token").write_text(TOKEN)
    (port,) = free_ports(1)
    address = f"http://127.0.0.1:{port}"
    options = {
        "config.file": folder / "prometheus.yml",
        "storage.tsdb.path": tmp_path / "tsdb",
        "web.listen-address": f"127.0.0.1:{port}",
    }
    process = shop.run("prometheus", [PROMETHEUS, *(f"--{name}={value}" for name, value in options.items())])
    eventually(lambda: answers(f"{address}/-/ready"), otherwise=process.says)
    return address


def ask(prometheus: str, path: str) -> Any:
    with urlopen(f"{prometheus}/api/v1/{path}", timeout=5) as response:
        return json.load(response)["data"]


def value_of(prometheus: str, expression: str) -> float | None:
    found = ask(prometheus, f"query?query={quote(expression)}")["result"]
    return float(found[0]["value"][1]) if found else None


def test_prometheus_reads_what_a_running_shop_counts(shop: RunningShop, prometheus: str) -> None:
    process: Process = shop["prometheus"]
    eventually(lambda: value_of(prometheus, 'up{job="shop"}') == 1.0, otherwise=process.says)
    services = ("orders", "payments", "shipping")
    shop.start(*(f"{kind}-{service}" for kind in ("relay", "worker") for service in services), "beat")
    shop.place("tok_approved")
    shop.wait_until_all_end()

    done = 'sum(choreography_deliveries_total{outcome="done", reaction="authorize_payment"})'
    eventually(lambda: value_of(prometheus, done) == 1.0, otherwise=process.says)
    assert value_of(prometheus, 'choreography_outbox_waiting{service="orders"}') == 0.0


def test_prometheus_can_evaluate_every_alert_and_every_panel(prometheus: str) -> None:
    def rules() -> list[dict[str, Any]]:
        return [rule for group in ask(prometheus, "rules")["groups"] for rule in group["rules"]]

    eventually(lambda: all(rule["health"] == "ok" for rule in rules()), otherwise=rules)
    assert len(rules()) == 9
    assert [rule["lastError"] for rule in rules() if "lastError" in rule] == []
    panels = json.loads((MONITORING / "dashboard.json").read_text())["panels"]
    for expression in (target["expr"] for panel in panels for target in panel["targets"]):
        value_of(prometheus, expression)
