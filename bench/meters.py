"""Reads the kernel's and the database's own counters. Linux only."""

import math
import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

_TICKS = os.sysconf("SC_CLK_TCK")


def family(*roots: int) -> list[int]:
    """These processes and all that came of them, as far as they live."""
    children: dict[int, list[int]] = {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit() and (fields := _stat(int(folder.name))):
            children.setdefault(int(fields[1]), []).append(int(folder.name))
    found: list[int] = []
    waiting = list(roots)
    while waiting:
        pid = waiting.pop()
        found.append(pid)
        waiting += children.get(pid, [])
    return found


def parent_of(pid: int) -> int:
    """The process that started this one.

    Raises:
        ProcessLookupError: it has ended.
    """
    fields = _stat(pid)
    if not fields:
        raise ProcessLookupError(pid)
    return int(fields[1])


def cpu_seconds(*roots: int) -> float:
    """Processor time of these processes and all that came of them, the ended ones included."""
    # utime, stime, and both of the children that were waited for
    return sum(sum(map(int, fields[11:15])) for fields in map(_stat, family(*roots)) if fields) / _TICKS


def bytes_moved(pid: int) -> int:
    """What a process has read and written so far, to files and sockets."""
    fields = dict(line.split(": ") for line in (Path("/proc") / str(pid) / "io").read_text().splitlines())
    return int(fields["rchar"]) + int(fields["wchar"])


def resident_megabytes(*roots: int) -> float:
    """The largest resident set among these processes and their children, in MB: that of the one that works."""
    return max((_resident(pid) for pid in family(*roots)), default=0.0)


def percentile(values: Iterable[float], share: float) -> float:
    """The smallest value that is not exceeded by this share (0 to 1) of them; not a number without any."""
    ordered = sorted(values)
    return ordered[max(math.ceil(share * len(ordered)) - 1, 0)] if ordered else math.nan


def median(values: Sequence[float]) -> float:
    ordered = sorted(value for value in values if not math.isnan(value))
    middle = len(ordered) // 2
    if not ordered:
        return math.nan
    return ordered[middle] if len(ordered) % 2 else (ordered[middle - 1] + ordered[middle]) / 2


def _stat(pid: int) -> list[str]:
    """What follows the name in ``/proc/<pid>/stat``: state, parent ...; nothing if it has ended."""
    try:
        return (Path("/proc") / str(pid) / "stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return []


def _resident(pid: int) -> float:
    try:
        status = (Path("/proc") / str(pid) / "status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return 0.0
    found = re.search(r"^VmRSS:\s+(\d+) kB", status, re.MULTILINE)
    return int(found[1]) / 1024 if found else 0.0
