"""What make offers, and what it hands on."""

import os
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.architecture.conftest import ROOT

MAKEFILE = (ROOT / "Makefile").read_text()

Make = Callable[..., str]


@pytest.fixture
def make(tmp_path: Path) -> Make:
    """Run make beside a target that shows the environment a command gets. Needs no virtual environment."""
    for name in ("Makefile", "requirements.txt"):
        shutil.copy(ROOT / name, tmp_path)
    (tmp_path / "show.mk").write_text("include Makefile\nshow: ; @env\n")

    def call(*arguments: str, **environment: str) -> str:
        return subprocess.run(
            ["make", "--silent", "--file", "show.mk", *arguments],
            cwd=tmp_path,
            env={"PATH": os.environ["PATH"], **environment},
            capture_output=True,
            text=True,
            timeout=30,
            check=True,
        ).stdout

    return call


def test_make_alone_lists_every_target(make: Make) -> None:
    targets = re.search(r"^\.PHONY: (.*)$", MAKEFILE, re.MULTILINE)
    assert targets

    assert re.findall(r"^  make (\w+) +\S", make(), re.MULTILINE) == targets[1].split()


def test_variables_on_the_command_line_reach_the_shop(make: Make) -> None:
    environment = make("show", "BROKER_URL=amqp://somewhere", "DATABASE_URL=postgres://elsewhere").splitlines()

    assert {"BROKER_URL=amqp://somewhere", "DATABASE_URL=postgres://elsewhere"} <= set(environment)


def test_a_person_at_this_machine_tries_things_out(make: Make) -> None:
    assert "DEBUG=true" in make("show").splitlines()


def test_debug_is_what_the_person_says(make: Make, tmp_path: Path) -> None:
    assert "DEBUG=false" in make("show", "DEBUG=false").splitlines()
    assert "DEBUG=false" in make("show", DEBUG="false").splitlines()

    (tmp_path / ".env").write_text("DEBUG=false\n")
    assert "DEBUG=" not in make("show")


def test_an_old_or_missing_python_is_one_clear_line(make: Make) -> None:
    with pytest.raises(subprocess.CalledProcessError) as failure:
        make(".venv/installed", "PYTHON=python-of-old")

    assert len(failure.value.stderr.splitlines()) == 1
    assert "This needs Python 3.11 or newer, and python-of-old is older or missing." in failure.value.stderr
