"""The machinery's tests of a small project pass where only the package is installed."""

import re
import shutil
from pathlib import Path

import pytest

from tests.package.conftest import ROOT, WheelEnvironment

pytestmark = pytest.mark.processes


def test_the_small_project_works_without_the_shop(wheel_environment: WheelEnvironment, tmp_path: Path) -> None:
    shutil.copytree(ROOT / "tests/testapp", tmp_path / "tests/testapp", ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "pytest.ini").write_text(
        "[pytest]\n"
        "DJANGO_SETTINGS_MODULE = tests.testapp.settings\n"
        "pythonpath = .\n"
        "addopts = --import-mode=importlib\n"
        "filterwarnings = error\n"
    )

    printed = wheel_environment.succeed("pytest", "-q", "tests/testapp/tests", cwd=tmp_path)

    passed = re.search(r"^(\d+) passed in", printed, re.MULTILINE)
    assert passed, printed
    assert int(passed[1]) > 10


def test_nothing_of_the_shop_can_be_imported_there(wheel_environment: WheelEnvironment, tmp_path: Path) -> None:
    for name in ("shop", "common", "orders", "bench"):
        assert wheel_environment.run("python", "-c", f"import {name}", cwd=tmp_path).returncode != 0
