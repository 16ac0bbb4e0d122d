"""How the shop is doing now: each service, the events between them, and what is wrong in one sentence each."""

import math
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from django.conf import settings
from django.db.models import Sum
from django.urls import reverse
from django.utils.translation import gettext as _
from django.utils.translation import ngettext

from choreography.broker.topology import Waiting
from choreography.core import clock
from choreography.events.declarations import Declarations
from journal.contracts import declarations
from journal.culprits import SILENT_AFTER, Surroundings
from journal.durations import duration
from journal.models import DeadLetter, Entry, Flow, Minute, Pauses, ServiceStatus

#: An event may wait so long in an outbox.
_LATE = timedelta(seconds=30)
#: Rates are of so many minutes; sparklines show an hour.
_RATE_OVER, _SPARK_OVER = 5, 60
#: Pixels of the map.
WIDTH, HEIGHT, NODE_WIDTH, NODE_HEIGHT = 860, 400, 150, 64
SPARK_WIDTH, SPARK_HEIGHT = 110, 20
#: How far an edge bends, so that both directions and their labels can be told apart.
_BULGE = 44


@dataclass(frozen=True)
class Trouble:
    """Something that is wrong now, in one sentence, and where to go."""

    service: str
    what: str
    remedy: str = ""
    url: str = ""


@dataclass
class Node:
    """A service."""

    service: str
    status: ServiceStatus | None
    queue: Waiting | None
    pause: Pauses | None
    failures: int
    """Attempts that failed within the last minutes."""
    troubles: list[Trouble] = field(default_factory=list)
    x: int = 0
    y: int = 0

    @property
    def left(self) -> int:
        return self.x - NODE_WIDTH // 2

    @property
    def top(self) -> int:
        return self.y - NODE_HEIGHT // 2


@dataclass(frozen=True)
class Event:
    """An event type, and how often it was announced."""

    type: str
    source: str
    readers: tuple[str, ...]
    per_minute: float
    counts: tuple[int, ...]
    """By minute, the oldest first."""

    @property
    def name(self) -> str:
        return self.type.split(".")[1]

    @property
    def spark(self) -> str:
        return sparkline(self.counts)


@dataclass(frozen=True)
class Edge:
    """The events of one service that another reacts to."""

    source: Node
    target: Node
    events: tuple[Event, ...]

    @property
    def per_minute(self) -> float:
        return sum(event.per_minute for event in self.events)

    @property
    def names(self) -> str:
        return ", ".join(event.name for event in self.events)

    @property
    def counts(self) -> tuple[int, ...]:
        return tuple(map(sum, zip(*(event.counts for event in self.events), strict=True)))

    @property
    def spark(self) -> str:
        return sparkline(self.counts)

    @property
    def is_silent(self) -> bool:
        return not any(self.counts)

    @property
    def path(self) -> str:
        """A curve beside the straight line, so that both directions can be told apart."""
        (x1, y1), (x2, y2), (mx, my) = self._ends[0], self._ends[1], self.middle
        return f"M{x1:.0f},{y1:.0f} Q{2 * mx - (x1 + x2) / 2:.0f},{2 * my - (y1 + y2) / 2:.0f} {x2:.0f},{y2:.0f}"

    @property
    def middle(self) -> tuple[float, float]:
        (x1, y1), (x2, y2) = self._ends
        length = math.hypot(x2 - x1, y2 - y1) or 1
        return (x1 + x2) / 2 - (y2 - y1) / length * _BULGE, (y1 + y2) / 2 + (x2 - x1) / length * _BULGE

    @property
    def label_x(self) -> int:
        return int(self.middle[0])

    @property
    def label_y(self) -> int:
        return int(self.middle[1])

    @property
    def spark_x(self) -> int:
        return self.label_x - SPARK_WIDTH // 2

    @property
    def _ends(self) -> tuple[tuple[float, float], tuple[float, float]]:
        """On the borders of the two nodes."""
        dx, dy = self.target.x - self.source.x, self.target.y - self.source.y
        reach = min(
            (NODE_WIDTH / 2 + 8) / abs(dx) if dx else math.inf, (NODE_HEIGHT / 2 + 8) / abs(dy) if dy else math.inf
        )
        start = self.source.x + dx * reach, self.source.y + dy * reach
        return start, (self.target.x - dx * reach, self.target.y - dy * reach)


@dataclass(frozen=True)
class Map:
    """The whole."""

    nodes: Sequence[Node]
    edges: Sequence[Edge]
    events: Sequence[Event]
    troubles: Sequence[Trouble]
    at: datetime
    running: int
    marked: int
    parked: int
    for_people: int

    width, height = WIDTH, HEIGHT
    node_width, node_height = NODE_WIDTH, NODE_HEIGHT


def look() -> Map:
    """Look at the journal's tables and at the queues on the broker."""
    now, declared, around = clock.now(), declarations(), Surroundings()
    minutes = _minutes(now)
    failed = _failures(now)
    nodes = {
        each: Node(each, around.status(each), around.queue(each), around.pause(each), failed[each])
        for each in declared.services
    }
    for index, node in enumerate(nodes.values()):
        node.x, node.y = _position(index, len(nodes))
        node.troubles = [*_troubles_of(node, now)]
    events = _events(declared, minutes)
    flows = Flow.objects
    marked = flows.exclude(mark="").count()
    troubles = [trouble for node in nodes.values() for trouble in node.troubles]
    troubles += [*_of_flows(marked), *_of_journal(around, now)]
    return Map(
        nodes=[*nodes.values()],
        edges=[*_edges(nodes, events)],
        events=events,
        troubles=troubles,
        at=now,
        running=flows.filter(ended_at=None).count(),
        marked=marked,
        parked=flows.filter(parked__gt=0).count(),
        for_people=flows.filter(needs_person=True).count(),
    )


def sparkline(counts: Sequence[int]) -> str:
    """The points of a line through counts, for a polyline of SPARK_WIDTH by SPARK_HEIGHT pixels."""
    most = max(counts, default=0) or 1
    step = SPARK_WIDTH / max(len(counts) - 1, 1)
    return " ".join(
        f"{index * step:.1f},{SPARK_HEIGHT - 1 - count / most * (SPARK_HEIGHT - 3):.1f}"
        for index, count in enumerate(counts)
    )


def _position(index: int, nodes: int) -> tuple[int, int]:
    """On an ellipse, the first at the upper left."""
    angle = -math.pi * 5 / 6 + 2 * math.pi * index / max(nodes, 1)
    return (
        int(WIDTH / 2 + (WIDTH / 2 - NODE_WIDTH * 0.6) * math.cos(angle)),
        int(HEIGHT / 2 - 10 + (HEIGHT / 2 - NODE_HEIGHT / 2 - 4) * math.sin(angle)),
    )


def _minutes(now: datetime) -> Mapping[str, Mapping[datetime, int]]:
    """How many events of each type were announced in each minute of the last hour."""
    since = now.replace(second=0, microsecond=0) - timedelta(minutes=_SPARK_OVER)
    rows = Minute.objects.filter(at__gt=since, name__startswith="event:")
    found: dict[str, dict[datetime, int]] = defaultdict(dict)
    for at, name, count in rows.values_list("at", "name", "count"):
        found[name.removeprefix("event:")][at] = count
    return found


def _failures(now: datetime) -> Mapping[str, int]:
    """How many attempts failed lately, by service."""
    since = now - timedelta(minutes=_RATE_OVER)
    rows = Minute.objects.filter(at__gte=since, name__startswith="fail:")
    found: dict[str, int] = defaultdict(int)
    for name, count in rows.values_list("name").annotate(total=Sum("count")):
        found[name.removeprefix("fail:").partition(".")[0]] += count
    return found


def _events(declared: Declarations, minutes: Mapping[str, Mapping[datetime, int]]) -> list[Event]:
    now = clock.now().replace(second=0, microsecond=0)
    moments = [now - timedelta(minutes=ago) for ago in reversed(range(_SPARK_OVER))]
    announced = {event_type for reaction in declared.reactions for event_type in reaction.announces}
    heard = {event_type for reaction in declared.reactions for event_type in reaction.heard}
    found = []
    for event_type in sorted(announced | heard | minutes.keys()):
        counts = tuple(minutes.get(event_type, {}).get(at, 0) for at in moments)
        readers = sorted({reaction.service for reaction in declared.reactions if event_type in reaction.heard})
        rate = sum(counts[-_RATE_OVER:]) / _RATE_OVER
        found.append(Event(event_type, event_type.partition(".")[0], tuple(readers), rate, counts))
    return found


def _edges(nodes: Mapping[str, Node], events: Sequence[Event]) -> Iterator[Edge]:
    for source in nodes.values():
        for target in nodes.values():
            chosen = tuple(it for it in events if it.source == source.service and target.service in it.readers)
            if chosen and source is not target:
                yield Edge(source, target, chosen)


def _troubles_of(node: Node, now: datetime) -> Iterator[Trouble]:
    service, status, queue = node.service, node.status, node.queue
    if queue is None:
        yield Trouble(service, _("the queue of %s is missing") % service, "manage.py declare_topology")
    elif node.pause is not None:
        what = _("%(service)s pauses for %(ago)s: %(pause)s, and %(count)d wait") % {
            "service": service,
            "ago": duration((now - node.pause.since).total_seconds()),
            "pause": node.pause,
            "count": queue.messages,
        }
        yield Trouble(service, what, _("see to it: %s goes on by itself when it answers") % service)
    elif queue.consumers == 0:
        what = _("no worker of %(service)s takes messages, and %(count)d wait") % {
            "service": service,
            "count": queue.messages,
        }
        remedy = _("start it, or see whether its database is down: celery -A shop worker -Q %s") % service
        yield Trouble(service, what, remedy)
    if status is None:
        yield Trouble(service, _("the relay of %s was never heard") % service, f"manage.py relay {service}")
    elif now - status.at > SILENT_AFTER:
        ago = duration((now - status.at).total_seconds())
        what = _("the relay of %(service)s is silent for %(ago)s") % {"service": service, "ago": ago}
        yield Trouble(service, what, f"manage.py relay {service}")
    elif status.oldest is not None and now - status.oldest > _LATE:
        what = _("%(count)d event(s) wait in the outbox of %(service)s, the oldest for %(ago)s") % {
            "count": status.outbox,
            "service": service,
            "ago": duration((now - status.oldest).total_seconds()),
        }
        yield Trouble(service, what, _("see the log of its relay"))
    if status is not None and status.refused:
        what = _("the broker refuses %(count)d event(s) of %(service)s") % {"count": status.refused, "service": service}
        yield Trouble(service, what, f"manage.py choreography release {service}")
    if status is not None and status.parked:
        yield _parked(service, status.parked)


def _parked(service: str, count: int) -> Trouble:
    what = ngettext(
        "%(count)d delivery to %(service)s is parked", "%(count)d deliveries to %(service)s are parked", count
    ) % {"count": count, "service": service}
    remedy = ngettext("mend it and send it again", "mend them and send them again", count)
    return Trouble(service, what, remedy, _dead_letters(service))


def _of_flows(marked: int) -> Iterator[Trouble]:
    if marked:
        what = ngettext(
            "%d flow is overdue, stalled, illegal or different",
            "%d flows are overdue, stalled, illegal or different",
            marked,
        )
        yield Trouble("", what % marked, "", f"{reverse('flows')}?state=marked")


def _of_journal(around: Surroundings, now: datetime) -> Iterator[Trouble]:
    queue = around.queue("journal")
    if queue is None:
        yield Trouble("journal", _("the queue of journal is missing"), "manage.py declare_topology")
    elif queue.consumers == 0:
        yield Trouble(
            "journal", _("the journal does not listen: this page shows the past"), "celery -A shop worker -Q journal"
        )
    newest = Entry.objects.order_by("-pk").first()
    if newest is not None and newest.published_at is not None and queue is not None and queue.messages > 1000:
        late = (newest.recorded_at - newest.published_at).total_seconds()
        yield Trouble("journal", _("the journal is %s behind: this page shows the past") % duration(late))
    parked = DeadLetter.objects.filter(state=DeadLetter.State.PARKED).count()
    if parked:
        yield _parked("journal", parked)


def _dead_letters(service: str) -> str:
    if service not in settings.SERVICES:
        return ""
    return f"{reverse(f'admin:{service}_deadletter_changelist')}?state__exact=parked"
