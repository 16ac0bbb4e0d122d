"""The README tells the truth: it is short, its links lead somewhere, and its commands are run."""

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.launched import manage

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
COMMANDS = [
    line.strip()
    for block in re.findall(r"^```sh\n(.*?)^```", README, flags=re.DOTALL | re.MULTILINE)
    for line in block.splitlines()
]
#: Run by the continuous integration itself, in full (.ci/run), or by an acceptance test (docker compose: its file).
#: A new service: tests/architecture/test_startservice.py.
NEW_SERVICE = (
    ".venv/bin/python manage.py startservice loyalty --reacts-to orders.order_completed.v1 --announces points_earned"
)
RUN_ELSEWHERE = {"make up", "make demo", "make test", "make test ALL=1", "docker compose up", NEW_SERVICE}


def targets() -> list[str]:
    return [command for command in COMMANDS if command.startswith("make ")]


def django_commands() -> list[str]:
    return [
        command
        for command in COMMANDS
        if "manage.py" in command and " test " not in command and command not in RUN_ELSEWHERE
    ]


def test_every_command_is_of_a_kind_that_something_runs() -> None:
    assert COMMANDS
    others = set(COMMANDS) - set(targets()) - set(django_commands()) - RUN_ELSEWHERE
    assert others == {".venv/bin/python manage.py test payments"}


@pytest.mark.parametrize("command", targets())
def test_every_make_target_exists(command: str) -> None:
    subprocess.run([*shlex.split(command), "--dry-run"], cwd=ROOT, check=True, capture_output=True)


def test_one_part_can_be_tested_by_its_name() -> None:
    """Collects only: the tests themselves run in this very run."""
    result = subprocess.run(
        [sys.executable, "manage.py", "test", "payments"],
        cwd=ROOT,
        env=os.environ | {"PYTEST_ADDOPTS": "--collect-only -q"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    collected = [line for line in result.stdout.splitlines() if "::" in line]
    assert collected
    assert all(line.startswith("tests/unit/payments/") for line in collected)


@pytest.mark.parametrize("command", django_commands())
def test_every_command_works_where_nothing_was_set(command: str, tmp_path: Path) -> None:
    """In a terminal of its own, as a person has it beside ``make up``, which alone says ``DEBUG=true``."""
    _, arguments = command.split("manage.py ")
    environment = {"PATH": os.environ["PATH"], "DATA_DIR": str(tmp_path)}

    result = manage(*shlex.split(arguments.replace("--write", "--check")), environment=environment)

    assert result.stderr == ""
    if arguments == "choreography doctor":
        assert "Remedy: run manage.py declare_topology." in result.stdout, "nothing runs here"
    else:
        assert result.returncode == 0, result.stdout


def test_every_link_leads_somewhere() -> None:
    assert list(broken_links(ROOT / "README.md")) == []
    assert list(broken_links(ROOT / "CONTRIBUTING.md")) == []


def test_links_between_the_pages_lead_somewhere() -> None:
    assert [link for page in (ROOT / "docs").rglob("*.md") for link in broken_links(page)] == []


def test_every_page_is_in_the_index() -> None:
    index = (ROOT / "docs" / "index.md").read_text()

    assert [page.name for page in (ROOT / "docs").glob("*.md") if f"({page.name}" not in index] == ["index.md"]


def broken_links(page: Path) -> Iterator[str]:
    """Links of a page to files that are not there, or to a heading that the file does not have."""
    for link, _, heading in (link.partition("#") for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text())):
        target = page.parent / link if link else page
        if link.startswith("http"):
            continue
        if not target.exists():
            yield f"{page.name}: {link}"
        elif heading and heading not in headings(target):
            yield f"{page.name}: {link}#{heading}"


def headings(page: Path) -> set[str]:
    """The headings of a page as links name them: ``#call-an-external-system``."""
    texts = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", text.lower()).replace(" ", "-") for text in texts}


def test_it_is_short() -> None:
    prose = re.sub(r"^```.*?^```", "", README, flags=re.DOTALL | re.MULTILINE)
    words = [word for line in prose.splitlines() if not line.startswith("|") for word in line.split()]
    assert len(words) < 500


def test_the_reaction_it_shows_has_the_form_the_services_use() -> None:
    (example,) = re.findall(r"^```python\n(.*?)^```", README, flags=re.DOTALL | re.MULTILINE)
    compile(example, "README.md", "exec")
    assert '@reacts_to("orders.order_completed.v1")' in example
