"""The import contracts hold, and each of them would notice if it did not."""

import tomllib
from pathlib import Path

import pytest

from tests.architecture.conftest import ROOT, Run

CONTRACTS = [
    contract["name"]
    for contract in tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
]

#: For each contract a module and an import that breaks it.
VIOLATIONS = {
    "Imports point one way: shop -> services -> common -> choreography": (
        "choreography/core/conf.py",
        "import common.money",
    ),
    "Inside choreography they point down, floor by floor": (
        "choreography/storage/bulk.py",
        "import choreography.outbox.relay",
    ),
    "Services do not import one another": ("orders/events.py", "import shipping.events"),
    "What a service can do knows nothing of Celery and the broker": ("payments/services.py", "import kombu"),
}


def test_imports_keep_every_contract(run: Run) -> None:
    result = run("lint-imports", "--no-cache", "--no-logo")

    assert result.returncode == 0, result.stdout
    assert f"{len(CONTRACTS)} kept, 0 broken" in result.stdout


def test_a_process_starts_without_what_only_checks_of_contracts_need(run: Run) -> None:
    at_start = "import django, sys; django.setup(); assert 'jsonschema' not in sys.modules"

    result = run("python", "-c", at_start, DEBUG="true", DJANGO_SETTINGS_MODULE="shop.settings")

    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize("contract", CONTRACTS)
def test_a_planted_import_breaks_its_contract(contract: str, tree: Path, run: Run) -> None:
    module, violation = VIOLATIONS[contract]
    with (tree / module).open("a") as source:
        source.write(f"\n{violation}\n")

    result = run("lint-imports", "--no-cache", "--no-logo", COLUMNS="200")

    assert result.returncode != 0
    assert f"{contract} BROKEN" in result.stdout
