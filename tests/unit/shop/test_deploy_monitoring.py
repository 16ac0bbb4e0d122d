"""``deploy/monitoring``: every expression reads a metric there is, with labels it has; every alert says what to do."""

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import prometheus_client
import pytest
import yaml
from prometheus_client import CollectorRegistry

from choreography.core.metrics import _Metrics
from shop.exposition import _Services

ROOT = Path(__file__).resolve().parents[3]
FOLDER = ROOT / "deploy" / "monitoring"

pytestmark = pytest.mark.django_db(databases="__all__")


def expressions() -> Iterator[str]:
    for group in yaml.safe_load((FOLDER / "alerts.yml").read_text())["groups"]:
        yield from (rule["expr"] for rule in group["rules"])
    for panel in json.loads((FOLDER / "dashboard.json").read_text())["panels"]:
        yield from (target["expr"] for target in panel["targets"])


@pytest.fixture(scope="module")
def known() -> dict[str, set[str]]:
    """Every series of ``/metrics``, with its labels."""

    class Client:
        """The real client, with a registry of its own."""

        registry = CollectorRegistry()

        def __getattr__(self, kind: str) -> Any:
            def make(name: str, text: str, labels: list[str], multiprocess_mode: str = "", **more: Any) -> Any:
                made = getattr(prometheus_client, kind)(name, text, labels, registry=self.registry, **more)
                names = [name, *(f"{name}{end}" for end in ("_bucket", "_sum", "_count"))]
                found.update({each: {*labels, "le"} for each in names})
                return made

            return make

    found: dict[str, set[str]] = {"up": {"job"}}
    _Metrics(Client())
    return found


def test_every_expression_reads_what_there_is(known: dict[str, set[str]]) -> None:
    gauges = {family.name: set(family.samples[0].labels) for family in _Services().collect() if family.samples}
    series = known | gauges
    for expression in expressions():
        names = re.findall(r"\b(?:choreography|journal)_\w+|\bup\b", expression)
        assert names, expression
        for name in names:
            assert name in series, f"{name} in {expression}"
        for label in re.findall(r"[{,]\s*(\w+)\s*[=!]", expression):
            assert any(label in series[name] for name in names), f"{label} in {expression}"
        for labels in re.findall(r"by \(([^)]*)\)", expression):
            for label in (each.strip() for each in labels.split(",")):
                assert any(label in series[name] for name in names), f"{label} in {expression}"
        assert expression.count("(") == expression.count(")")


def test_every_alert_says_what_to_do() -> None:
    for group in yaml.safe_load((FOLDER / "alerts.yml").read_text())["groups"]:
        for rule in group["rules"]:
            assert rule["labels"]["severity"] in ("page", "ticket")
            assert rule["annotations"]["summary"]
            assert (ROOT / rule["annotations"]["runbook_url"]).exists()


@pytest.mark.parametrize(
    "arguments",
    [("check", "config", "prometheus.yml"), ("check", "rules", "alerts.yml"), ("test", "rules", "alerts_test.yml")],
)
def test_promtool_finds_nothing_wrong(arguments: tuple[str, ...], tmp_path: Path) -> None:
    """It also has each alert fire where it should, and none where all is well (``alerts_test.yml``)."""
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("promtool is not installed")
    shutil.copytree(FOLDER, tmp_path / "monitoring")
    (tmp_path / "monitoring" / "token").write_text("a token")

    done = subprocess.run(
        [promtool, *arguments], cwd=tmp_path / "monitoring", capture_output=True, text=True, timeout=60, check=False
    )

    assert done.returncode == 0, done.stdout + done.stderr


def test_prometheus_is_told_where_the_shop_is() -> None:
    config = yaml.safe_load((FOLDER / "prometheus.yml").read_text())

    [job] = config["scrape_configs"]
    assert job["metrics_path"] == "/metrics"
    assert "credentials_file" in job["authorization"], "no token stands in the repository"
    assert config["rule_files"] == ["alerts.yml"]


def test_no_panel_of_the_dashboard_lies_on_another() -> None:
    panels = json.loads((FOLDER / "dashboard.json").read_text())["panels"]
    places = {(panel["gridPos"]["x"], panel["gridPos"]["y"]) for panel in panels}

    assert len(places) == len(panels) == len({panel["id"] for panel in panels})
