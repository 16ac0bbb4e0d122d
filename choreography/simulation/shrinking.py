"""The shortest part of a schedule that still fails (delta debugging: A. Zeller, R. Hildebrandt, 2002)."""

import time
from collections.abc import Callable, Sequence
from itertools import pairwise

from choreography.simulation.actions import Schedule, numbers, only


def shrink(schedule: Schedule, fails: Callable[[Schedule], bool], seconds: float = 30.0) -> Schedule:
    """Leave out what is not needed to fail.

    Args:
        fails: whether a schedule fails as this one does.
        seconds: how long to try; what has been reached by then is returned.

    Returns:
        A schedule that fails, and where time allowed, of which nothing can be left out.
    """
    deadline = time.monotonic() + seconds
    kept, parts = numbers(schedule), 2
    while len(kept) > 1:
        for left_out in _split(kept, min(parts, len(kept))):
            if time.monotonic() > deadline:
                return only(schedule, kept)
            # Without an action, what was inside it is gone too.
            rest = numbers(only(schedule, set(kept) - set(left_out)))
            if fails(only(schedule, rest)):
                kept, parts = rest, max(parts - 1, 2)
                break
        else:
            if parts >= len(kept):
                break
            parts *= 2
    return only(schedule, kept)


def _split(items: Sequence[int], parts: int) -> list[Sequence[int]]:
    ends = [len(items) * part // parts for part in range(parts + 1)]
    return [items[begin:end] for begin, end in pairwise(ends)]
