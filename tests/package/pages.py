"""Run a page of the documentation as a reader would: every block, in the order of the page, in one shell.

A block of ``python`` begins with a comment that names its file: ``# app/models.py`` is the whole file,
``# app/models.py, at the end`` is appended to it, ``# app/models.py, in place of Record`` replaces that class or
function, and ``# app/models.py, as it is`` is what stands in it already. A block of ``sh`` is run and must succeed.

A block of ``text`` shows what the block of ``sh`` before it prints: each line must appear, in this order, where ``…``
stands for anything. If it does not, the block of ``sh`` is run again until it does, for what other processes do takes
time: such a block must only look, and its exit code does not matter.
"""

import ast
import os
import re
import signal
import subprocess
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from queue import Empty, Queue
from typing import IO

from tests.processes import eventually

_BLOCK = re.compile(r"^```(?P<language>\w+)\n(?P<text>.*?)^```$", re.DOTALL | re.MULTILINE)
_FILE = re.compile(r"# (?P<path>[\w./-]+)(?:, (?P<where>at the end|as it is|in place of (?P<name>\w+)))?\n")


@dataclass(frozen=True)
class Block:
    language: str
    text: str
    line: int
    """Where it begins on the page."""


def blocks(page: str) -> list[Block]:
    """The blocks of code on a page of Markdown."""
    return [
        Block(found["language"], found["text"], page[: found.start()].count("\n") + 1)
        for found in _BLOCK.finditer(page)
    ]


def run_page(page: Path, folder: Path, environment: Mapping[str, str]) -> None:
    """Run every block of a page in a folder.

    Raises:
        AssertionError: a command fails, or does not print what the page shows. Names the line of the page.
    """
    found = blocks(page.read_text())
    with _shell(folder, environment) as shell:
        for block, following in zip(found, [*found[1:], None], strict=True):
            if block.language == "python":
                _write(folder, block)
            elif block.language == "sh" and following is not None and following.language == "text":
                _look(shell, block, following)
            elif block.language == "sh":
                status, printed = shell.run(block.text)
                assert status == 0, f"{page.name}, line {block.line}: exit code {status}\n{printed}"


def _write(folder: Path, block: Block) -> None:
    found = _FILE.match(block.text)
    assert found, f"line {block.line}: the block does not begin with the name of its file"
    path, text = folder / found["path"], block.text[found.end() :]
    if found["where"] == "at the end":
        path.write_text(path.read_text() + "\n" + text)
    elif found["where"] == "as it is":
        assert text in path.read_text(), f"line {block.line}: {path.name} holds something else"
    elif found["name"]:
        path.write_text(_replaced(path.read_text(), found["name"], text))
    else:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def _replaced(source: str, name: str, text: str) -> str:
    """The source of a module with another definition in place of one at its top level."""
    [node] = [node for node in ast.parse(source).body if getattr(node, "name", None) == name]
    first = min([node.lineno, *(decorator.lineno for decorator in getattr(node, "decorator_list", []))])
    lines = source.splitlines(keepends=True)
    return "".join([*lines[: first - 1], text, *lines[node.end_lineno :]])


def _look(shell: "_Shell", block: Block, shown: Block) -> None:
    lines = [re.escape(line).replace("…", ".*") for line in shown.text.splitlines()]
    expected = re.compile(r"^" + r"$(?s:.*)^".join(lines) + r"$", re.MULTILINE)
    printed = ""

    def is_as_shown() -> bool:
        nonlocal printed
        _, printed = shell.run(block.text)
        return expected.search(printed) is not None

    eventually(is_as_shown, otherwise=lambda: f"line {block.line} prints not what line {shown.line} shows:\n{printed}")


class _Shell:
    """One bash, given blocks of commands one after another."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self._process = process
        self._lines: Queue[str | None] = Queue()
        self._number = 0
        threading.Thread(target=self._read, args=[process.stdout], daemon=True).start()

    def run(self, commands: str) -> tuple[int, str]:
        """Run commands until one fails. Returns the exit code of the last and what was printed meanwhile."""
        self._number += 1
        end = f"--- end of block {self._number}: "
        assert self._process.stdin
        steps = " && ".join(["true", *_statements(commands)])
        self._process.stdin.write(f"{steps}\necho; echo '{end}'$?\n")
        self._process.stdin.flush()
        printed: list[str] = []
        while True:
            try:
                line = self._lines.get(timeout=300)
            except Empty:
                raise AssertionError(f"not over within 300 s:\n{commands}\n{''.join(printed)}") from None
            assert line is not None, f"the shell has ended:\n{''.join(printed)}"
            if line.startswith(end):
                return int(line.removeprefix(end)), "".join(printed)
            printed.append(line)

    def _read(self, stream: IO[str]) -> None:
        for line in stream:
            self._lines.put(line)
        self._lines.put(None)


def _statements(commands: str) -> Iterator[str]:
    """The lines of a block, so that the first that fails is the last that runs."""
    for line in commands.strip().splitlines():
        yield f"{{ {line}{'' if line.endswith('&') else ';'} }} < /dev/null"


@contextmanager
def _shell(folder: Path, environment: Mapping[str, str]) -> Iterator[_Shell]:
    """A bash whose children end with it."""
    with subprocess.Popen(
        ["bash"],
        cwd=folder,
        env=dict(environment),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    ) as process:
        try:
            yield _Shell(process)
        finally:
            os.killpg(process.pid, signal.SIGKILL)
