"""docs/reference.md says what the docstrings say."""

import subprocess
import sys
from pathlib import Path

from tests.architecture.conftest import ROOT, Run


def test_the_reference_is_up_to_date() -> None:
    checked = subprocess.run(
        [sys.executable, "docs/reference.py", "--check"], cwd=ROOT, capture_output=True, text=True, check=False
    )

    assert checked.returncode == 0, checked.stderr


def test_a_setting_without_its_line_is_noticed(tree: Path, run: Run) -> None:
    page = ROOT / "docs" / "reference.md"
    copy = tree / "docs"
    copy.mkdir()
    (copy / "reference.py").write_text((ROOT / "docs" / "reference.py").read_text())
    (copy / "reference.md").write_text(page.read_text().replace("| `BATCH_SIZE` |", "| `BATCH` |"))

    checked = run("python", "docs/reference.py", "--check", DEBUG="true")

    assert checked.returncode == 1
    assert "docs/reference.md is out of date. Run python docs/reference.py." in checked.stderr
