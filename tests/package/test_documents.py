"""Every command and every block of code of the pages for newcomers works where only the package is installed."""

import os
import re
import sys
from pathlib import Path

import pytest

from tests.package.conftest import ROOT
from tests.package.pages import run_page

pytestmark = [pytest.mark.processes, pytest.mark.slow, pytest.mark.longest]


@pytest.fixture
def environment(wheel: Path, tmp_path: Path) -> dict[str, str]:
    """That of a person who has Python alone: pip finds the package in its wheel, and installs what is locked."""
    kept = {name: value for name, value in os.environ.items() if name in ("HOME", "LANG") or name.startswith("PIP_")}
    constraints = tmp_path / "constraints.txt"
    constraints.write_text("\n".join(re.findall(r"(?m)^[\w.-]+==\S+", (ROOT / "requirements-dev.txt").read_text())))
    path = f"{Path(sys.base_prefix) / 'bin'}:/usr/local/bin:/usr/bin:/bin"
    return kept | {
        "PATH": path,
        "PIP_FIND_LINKS": str(wheel.parent),
        "PIP_CONSTRAINT": str(constraints),
        "PIP_DISABLE_PIP_VERSION_CHECK": "1",
        # Two versions of a file that are written within a second may look the same to Python's cache.
        "PYTHONDONTWRITEBYTECODE": "1",
    }


@pytest.mark.parametrize("page", ["tutorial", "adopting"])
def test_everything_on_the_page_works(page: str, environment: dict[str, str], tmp_path: Path) -> None:
    folder = tmp_path / page
    folder.mkdir()

    run_page(ROOT / "docs" / f"{page}.md", folder, environment)
