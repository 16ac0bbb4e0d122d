"""``manage.py demo``: five orders through real processes, and a judgement that can also be a bad one."""

import json
from pathlib import Path

import pytest

from tests.launched import at_work, environment_in, manage
from tests.servers import a_corner_of_the_servers

pytestmark = pytest.mark.processes

TITLES = [
    "paid and delivered",
    "card declined",
    "address undeliverable",
    "cancelled by a person while in flight",
    "a gateway that fails twice and then works",
]


def test_the_demo_needs_nothing_but_python_and_leaves_nothing_behind(tmp_path: Path) -> None:
    environment = environment_in(tmp_path, TMPDIR=str(tmp_path))
    environment.pop("DATA_DIR")

    result = manage("demo", "--json", environment=environment)

    assert result.returncode == 0, result.stderr
    report = json.loads(result.stdout)
    assert report["ok"]
    assert report["faults"] == []
    assert [(order["title"], order["faults"]) for order in report["orders"]] == [(title, []) for title in TITLES]
    assert list(tmp_path.glob("shop-demo-*")) == []


@pytest.mark.rabbitmq
@pytest.mark.postgresql
@pytest.mark.slow
def test_on_rabbitmq_and_postgresql_the_demo_says_which_order_ended_otherwise(
    request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    impatient = {"UNPAID_ORDER_LIFETIME_SECONDS": "0.5", "CANCEL_UNPAID_ORDERS_SECONDS": "0.2"}
    with a_corner_of_the_servers(request) as corner:
        environment = environment_in(tmp_path, **corner, **impatient)

        result = manage("demo", environment=environment)
        try:
            assert result.returncode == 1, result.stdout + result.stderr
            wrong = [line for line in result.stdout.splitlines() if line.startswith("  wrong")]
            assert any("a gateway that fails twice and then works: cancelled" in line for line in wrong), result.stdout
            assert "- the reason: not_paid_in_time instead of nothing" in result.stdout
            assert "Not all is as it must be" in result.stderr
            assert at_work(environment) == {}
        finally:
            manage("declare_topology", "--delete", environment=environment)
