"""Run a program with a clock of its own: ``python -m tests.skewed FILE celery -A shop worker …``.

``FILE`` holds the seconds by which the time of day is ahead, and may change meanwhile. Sleeping and the monotonic clock
are what they are, as where an operator, or a virtual machine that was moved, sets the time of day.
"""

import datetime
import runpy
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

_time = time.time
_datetime = datetime.datetime


class _Instances(type):
    def __instancecheck__(cls, instance: object) -> bool:
        return isinstance(instance, _datetime)


def skewed(command: Sequence[str], file: Path) -> list[str]:
    """The command of a Python program, with a clock of its own."""
    python, *program = command
    return [python, "-m", "tests.skewed", str(file), *(part for part in program if part != "-m")]


def shift(file: Path) -> None:
    """Have ``time.time`` and ``datetime`` run ahead by what the file says."""

    def ahead() -> float:
        return float(file.read_text())

    class Skewed(_datetime, metaclass=_Instances):
        @classmethod
        def now(cls, tz: Any = None) -> Any:
            return _datetime.now(tz) + datetime.timedelta(seconds=ahead())

        @classmethod
        def utcnow(cls) -> Any:
            return _datetime.now(datetime.UTC).replace(tzinfo=None) + datetime.timedelta(seconds=ahead())

    time.time = lambda: _time() + ahead()
    datetime.datetime = Skewed  # type: ignore[misc]


if __name__ == "__main__":
    shift(Path(sys.argv[1]))
    sys.argv = sys.argv[2:]
    if sys.argv[0] == "celery":
        from celery.__main__ import main

        sys.exit(main())
    runpy.run_path(sys.argv[0], run_name="__main__")
