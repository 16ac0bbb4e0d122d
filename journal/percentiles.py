"""How long things take: percentiles by time, as charts that the server draws."""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from django.utils.translation import gettext as _

from choreography.core import clock
from journal.durations import duration
from journal.latency import added, percentile
from journal.models import Minute

#: How far back, and in how many points.
SPANS: Final = {
    "hour": (timedelta(hours=1), 60),
    "day": (timedelta(days=1), 48),
    "week": (timedelta(days=7), 56),
}
SHARES: Final = (0.5, 0.95, 0.99)
#: Pixels of a chart, and of the margin for its numbers.
WIDTH, HEIGHT, MARGIN = 320, 110, 42

_HEADINGS = {
    "flow": "first event to the end",
    "queue": "in the queue",
    "handle": "in the reaction",
    "event": "in the outbox",
}


@dataclass(frozen=True)
class Line:
    """One percentile over time."""

    share: float
    total: float | None
    """Of the whole span, in seconds."""
    points: str

    @property
    def name(self) -> str:
        return f"p{self.share * 100:.0f}"

    @property
    def shown(self) -> str:
        return duration(self.total)


@dataclass(frozen=True)
class Chart:
    """The percentiles of one thing."""

    name: str
    what: str
    count: int
    lines: tuple[Line, ...]
    highest: float

    width, height, margin = WIDTH, HEIGHT, MARGIN

    @property
    def top(self) -> str:
        return duration(self.highest)


def charts(span: str) -> dict[str, list[Chart]]:
    """The charts of a span (``hour``, ``day``, ``week``; any other is an hour), by what they measure."""
    length, points = SPANS.get(span, SPANS["hour"])
    now = clock.now()
    rows = Minute.objects.filter(at__gte=now - length)
    by_name: dict[str, list[tuple[datetime, Mapping[str, int], int]]] = defaultdict(list)
    for name, at, times, count in rows.values_list("name", "at", "times", "count"):
        if times:
            by_name[name].append((at, times, count))
    found: dict[str, list[Chart]] = {heading: [] for heading in _HEADINGS}
    for name in sorted(by_name):
        kind, _colon, about = name.partition(":")
        if kind in found:
            found[kind].append(_chart(about, by_name[name], now - length, length / points, points))
    return {_(_HEADINGS[kind]): charts for kind, charts in found.items() if charts}


def _chart(
    about: str,
    rows: Sequence[tuple[datetime, Mapping[str, int], int]],
    since: datetime,
    step: timedelta,
    points: int,
) -> Chart:
    slots: list[list[Mapping[str, int]]] = [[] for _ in range(points)]
    for at, times, _count in rows:
        slots[min(max(int((at - since) / step), 0), points - 1)].append(times)
    counts = [added(slot) for slot in slots]
    series = {share: [percentile(each, share) for each in counts] for share in SHARES}
    highest = max((value for values in series.values() for value in values if value is not None), default=0.0)
    whole = added(times for _, times, _count in rows)
    lines = tuple(
        Line(share, percentile(whole, share), _line([*_points(values, highest)])) for share, values in series.items()
    )
    return Chart(about, about, sum(count for *_, count in rows), lines, highest)


def _line(points: Sequence[str]) -> str:
    """Where there is one point only, a line just long enough to be seen."""
    if len(points) == 1:
        x, _comma, y = points[0].partition(",")
        return f"{points[0]} {float(x) + 3:.1f},{y}"
    return " ".join(points)


def _points(values: Sequence[float | None], highest: float) -> Iterator[str]:
    """Through what is known: where nothing was counted the line goes straight on."""
    step = (WIDTH - MARGIN - 8) / max(len(values) - 1, 1)
    for index, value in enumerate(values):
        if value is not None:
            y = HEIGHT - 18 - (value / highest if highest else 0) * (HEIGHT - 30)
            yield f"{MARGIN + index * step:.1f},{y:.1f}"
