"""A copy of the source tree, to plant violations in and to run commands in without this machine's .env and var/."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from django.conf import settings

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("shop", "common", "choreography", *settings.ALL_SERVICES)

Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """The packages, ``manage.py`` and the tools' settings, free to be changed."""
    copy = tmp_path / "tree"
    for package in PACKAGES:
        shutil.copytree(ROOT / package, copy / package, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("manage.py", "pyproject.toml"):
        shutil.copy(ROOT / name, copy)
    return copy


@pytest.fixture
def run(tree: Path) -> Run:
    """Run a command of this Python's in the copy, with nothing in the environment but what is given."""

    def call(*command: str, **environment: str) -> subprocess.CompletedProcess[str]:
        programs = Path(sys.executable).parent
        return subprocess.run(
            [programs / command[0], *command[1:]],
            cwd=tree,
            env={"PATH": f"{programs}:{os.defpath}", "PYTHONDONTWRITEBYTECODE": "1", **environment},
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )

    return call
