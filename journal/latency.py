"""Durations, counted in buckets that grow by a tenth: percentiles of any span of time by adding up counts."""

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from datetime import datetime

#: Each bucket ends this much later than the one before: a percentile is at most so much too large.
_GROWTH = 1.1
#: Where the first bucket ends, in seconds.
_FIRST = 0.001


def bucket_of(seconds: float) -> str:
    """The bucket of a duration, as a key of JSON. Clocks may disagree: what is negative counts as nothing."""
    return str(max(0, math.ceil(math.log(max(seconds, _FIRST) / _FIRST, _GROWTH))))


def bounds_of(bucket: str) -> float:
    """Where a bucket ends, in seconds."""
    return _FIRST * _GROWTH ** int(bucket)


def between(earlier: datetime | None, later: datetime | None) -> float | None:
    """Seconds between two moments, if both are known; never less than none."""
    return None if earlier is None or later is None else max((later - earlier).total_seconds(), 0.0)


def added(counts: Iterable[Mapping[str, int]]) -> Counter[str]:
    """The counts of many minutes in one."""
    total: Counter[str] = Counter()
    for each in counts:
        total.update(each)
    return total


def percentile(counts: Mapping[str, int], share: float) -> float | None:
    """A percentile in seconds, such as ``share=0.95``; ``None`` if nothing was counted."""
    wanted = math.ceil(sum(counts.values()) * share)
    if not wanted:
        return None
    seen = 0
    for bucket in sorted(counts, key=int):
        seen += counts[bucket]
        if seen >= wanted:
            break
    return bounds_of(bucket)
