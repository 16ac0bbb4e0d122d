"""``manage.py startservice`` writes a service that passes its own tests, and the checks of this repository."""

import re
import shutil
from pathlib import Path

import pytest

from tests.architecture.conftest import ROOT, Run

HEARD = ("orders.order_completed.v1", "orders.order_cancelled.v1")


@pytest.fixture
def manage(run: Run, tree: Path) -> Run:
    def call(*arguments: str, **environment: str) -> object:
        return run("python", "manage.py", *arguments, DEBUG="true", **environment)

    if (ROOT / ".mypy_cache").exists():  # half a minute less
        shutil.copytree(ROOT / ".mypy_cache", tree / ".mypy_cache")
    (tree / "contracts").mkdir()
    for contract in (ROOT / "contracts").glob("*.json"):
        shutil.copy(contract, tree / "contracts")
    return call  # type: ignore[return-value]


def add_to_settings(tree: Path, service: str) -> None:
    settings = tree / "shop" / "settings.py"
    text = settings.read_text()
    changed = re.sub(r'(?m)^(ALL_SERVICES = \(.*")\)$', rf'\1, "{service}")', text)
    assert changed != text
    settings.write_text(changed)


#: What is asked for, and how many tests come with it.
ASKED_FOR = {
    "loyalty": (
        ["--reacts-to", *HEARD, "--announces", "points_earned", "loyalty.level_reached.v1"],
        2,
    ),
    "statistics_kept": (["--reacts-to", *HEARD], 2),
    "returns": (["--announces", "parcel_returned"], 1),
    "empty": ([], 1),
}


@pytest.mark.slow
@pytest.mark.longest
def test_a_new_service_passes_its_own_tests_and_every_check(tree: Path, run: Run, manage: Run) -> None:
    for service, (events, _) in ASKED_FOR.items():
        assert manage("startservice", service, *events).returncode == 0
        add_to_settings(tree, service)

    for command in (
        ["makemigrations", *ASKED_FOR],
        ["choreography", "contracts", "--write"],
        ["check"],
        ["makemigrations", "--check"],
        ["choreography", "contracts", "--check"],
    ):
        result = manage(*command)
        assert result.returncode == 0, result.stderr
    tests = sum(tests for _, tests in ASKED_FOR.values())
    assert f"{tests} passed" in manage("test", *ASKED_FOR).stdout
    for tool in (["ruff", "check"], ["ruff", "format", "--check"], ["mypy"]):
        result = run(*tool, *ASKED_FOR, DEBUG="true")
        assert result.returncode == 0, result.stdout


@pytest.mark.slow
def test_the_tests_pass_before_there_is_a_migration(tree: Path, manage: Run) -> None:
    manage("startservice", "loyalty", "--reacts-to", *HEARD)
    add_to_settings(tree, "loyalty")

    assert "2 passed" in manage("test", "loyalty").stdout


def test_a_service_may_lie_in_a_package(tree: Path, run: Run, manage: Run) -> None:
    (tree / "apps").mkdir()

    printed = manage("startservice", "apps.loyalty", "--announces", "points_earned").stdout
    add_to_settings(tree, "apps.loyalty")

    assert 'Add "apps.loyalty" to INSTALLED_APPS and "loyalty" to CHOREOGRAPHY["SERVICES"]' in printed
    assert 'name = "apps.loyalty"' in (tree / "apps/loyalty/apps.py").read_text()
    assert "from apps.loyalty.models import Record" in (tree / "apps/loyalty/services.py").read_text()
