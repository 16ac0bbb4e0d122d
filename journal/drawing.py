"""The sequence diagram of a flow: where everything goes. The template ``journal/sequence.svg`` draws it.

Lanes from left to right: the outside (people and external systems), then each service. Rows from top to bottom, in the
order of time: an event is an arrow from its service to each that reacts, a reaction a box on its service's lane.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime

from django.utils.translation import gettext as _

from journal.durations import duration
from journal.latency import between
from journal.story import Failure, Handling, Story, Told

#: Pixels: the gutter with the times, between two lanes, a box, its first row.
GUTTER, LANE, BOX, TOP = 84, 190, 150, 58
_EVENT_ROW, _BOX_ROW, _NOTE_ROW = 44, 34, 19
#: To the right of the last lane, at least; and what a character takes of what is said there.
_MARGIN, _CHARACTER = 150, 7
#: Characters that are drawn of what is said of a failed attempt.
_LONGEST_NOTE = 80


@dataclass(frozen=True)
class Lane:
    name: str
    x: int
    is_outside: bool = False


@dataclass(frozen=True)
class Arrow:
    """An event, or one that is expected."""

    y: int
    x1: int
    targets: tuple[int, ...]
    label: str
    kind: str
    """``event``, ``compensation``, ``end``, ``expected`` or ``overdue``."""
    href: str
    title: str
    offset: str
    is_from_outside: bool = False
    """No event caused it: a person did, or time."""

    @property
    def label_x(self) -> int:
        return (self.x1 + (self.targets[0] if self.targets else self.x1 + 80)) // 2

    @property
    def tips(self) -> list["Tip"]:
        return [Tip(self.x1, x, self.y) for x in self.targets]


@dataclass(frozen=True)
class Tip:
    """One arrow of an event."""

    x1: int
    x2: int
    y: int

    @property
    def end(self) -> int:
        """Where the line ends: just before the lane."""
        return self.x2 - 8 if self.x2 > self.x1 else self.x2 + 8

    @property
    def points(self) -> str:
        """The head of the arrow."""
        back = -8 if self.x2 > self.x1 else 8
        return f"{self.x2},{self.y} {self.x2 + back},{self.y - 4} {self.x2 + back},{self.y + 4}"


@dataclass(frozen=True)
class Box:
    """A reaction."""

    x: int
    y: int
    label: str
    note: str
    kind: str
    """How it stands, as ``story.Standing`` has it."""
    href: str
    title: str
    offset: str
    calls: str = ""

    width = BOX
    height = 26

    @property
    def left(self) -> int:
        return self.x - BOX // 2

    @property
    def middle(self) -> int:
        return self.y + self.height // 2


@dataclass(frozen=True)
class Note:
    """A line of text beside a lane: an attempt that failed, or what a person did."""

    x: int
    y: int
    text: str
    kind: str
    offset: str


@dataclass
class Drawing:
    """What the template draws."""

    width: int
    lanes: list[Lane]
    arrows: list[Arrow] = field(default_factory=list)
    boxes: list[Box] = field(default_factory=list)
    notes: list[Note] = field(default_factory=list)
    height: int = TOP

    @property
    def outside(self) -> int:
        return self.lanes[0].x


def draw(story: Story) -> Drawing:
    """Lay out the story of a flow."""
    names = [_("outside"), *story.services]
    lanes = [Lane(name, GUTTER + 60 + index * LANE, index == 0) for index, name in enumerate(names)]
    drawing = Drawing(max((lane.x for lane in lanes), default=0) + LANE // 2 + _MARGIN, lanes)
    x_of = {lane.name: lane.x for lane in lanes[1:]}
    for row in story.rows:
        match row:
            case Told():
                _add_event(drawing, story, row, x_of)
            case Handling():
                _add_handling(drawing, story, row, x_of)
            case Failure():
                _add_failure(drawing, story, row, x_of)
    for expected in story.expected:
        drawing.height += _EVENT_ROW
        x = x_of.get(expected.service, drawing.outside)
        left = between(story.now, expected.by) or 0
        when = _("overdue") if expected.is_overdue else _("within %s") % duration(left)
        drawing.arrows.append(
            Arrow(
                y=drawing.height - 12,
                x1=x,
                targets=(),
                label=f"{expected.names} ({when})",
                kind="overdue" if expected.is_overdue else "expected",
                href="#expected",
                title=_("still to come"),
                offset="",
            )
        )
    drawing.height += 28
    drawing.width = max([drawing.width, *_ends_of_texts(drawing)])
    return drawing


def _ends_of_texts(drawing: Drawing) -> Iterator[int]:
    """Where the texts end, about, that begin beside a lane."""
    yield from (note.x + 10 + _CHARACTER * len(note.text) for note in drawing.notes)
    yield from (box.left + box.width + 6 + _CHARACTER * len(box.note) for box in drawing.boxes)
    yield from (arrow.x1 + 84 + _CHARACTER * len(arrow.label) for arrow in drawing.arrows if not arrow.targets)


def _add_event(drawing: Drawing, story: Story, told: Told, x_of: dict[str, int]) -> None:
    drawing.height += _EVENT_ROW
    entry, y = told.entry, drawing.height - 12
    x1 = x_of[entry.source]
    readers = {handling.service for handling in told.handlings}
    # The farthest first, so that the nearer heads lie on top of the line.
    targets = sorted({x_of[service] for service in readers if service in x_of} - {x1}, key=lambda x: -abs(x - x1))
    kind = "compensation" if told.is_compensation else "event"
    drawing.arrows.append(
        Arrow(
            y=y,
            x1=x1,
            targets=tuple(targets),
            label=told.name,
            kind=kind,
            href=f"#event-{told.short}",
            title=f"{entry.type}, {_('in the outbox')} {duration(told.outbox_seconds)}",
            offset=_offset(story, entry.announced_at),
            is_from_outside=not entry.caused_by,
        )
    )


def _add_handling(drawing: Drawing, story: Story, handling: Handling, x_of: dict[str, int]) -> None:
    x = x_of.get(handling.service, drawing.outside)
    drawing.height += _BOX_ROW
    done = handling.handle_seconds
    drawing.boxes.append(
        Box(
            x=x,
            y=drawing.height - _BOX_ROW + 4,
            label=handling.name,
            note=_note(story, handling),
            kind=handling.standing,
            href=f"#handling-{handling.event_id}-{handling.name}",
            title=f"{handling.reaction}: {handling.standing}, {_('in the queue')} {duration(handling.queue_seconds)}, "
            f"{_('in the reaction')} {duration(done)}",
            offset=_offset(story, handling.last_began_at),
            calls=handling.calls if handling.outcomes else "",
        )
    )


def _add_failure(drawing: Drawing, story: Story, failure: Failure, x_of: dict[str, int]) -> None:
    outcome = failure.outcome
    drawing.height += _NOTE_ROW
    drawing.notes.append(
        Note(
            x_of.get(failure.handling.service, drawing.outside),
            drawing.height - 6,
            failure.text[:_LONGEST_NOTE],
            outcome.what,
            _offset(story, outcome.ended_at),
        )
    )


def _note(story: Story, handling: Handling) -> str:
    """What stands beside a box."""
    match handling.standing:
        case "done":
            again = len(handling.failures)
            took = duration(handling.handle_seconds)
            return _("%(took)s, attempt %(attempt)d") % {"took": took, "attempt": again + 1} if again else took
        case "retrying" | "waiting":
            left = between(story.now, handling.next_at)
            return _("next attempt in %s") % duration(left)
        case "parked":
            return handling.error[:48]
        case "discarded":
            return _("discarded")
        case "paused" if handling.pause:
            return _("paused: %s is down") % handling.pause.dependencies
    return _("pending")


def _offset(story: Story, at: datetime | None) -> str:
    seconds = between(story.flow.started_at, at)
    return "" if seconds is None else f"+{duration(seconds)}"
