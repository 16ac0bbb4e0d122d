"""Marks on flows: what is missing, illegal or stalled, since when, who should have acted, and what to do."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from datetime import datetime

from choreography.events.declarations import Declarations
from choreography.storage.bulk import insert_all
from journal.flow_state import Finding, FlowState
from journal.models import ALIAS, Flow, MarkOfFlow

Known = tuple[Flow, FlowState]


def clear(flows: Sequence[Known], now: datetime, declared: Declarations) -> None:
    """Remove from flows, whose rows are locked, the marks that don't hold any more, and say when to look again.

    An illegal event is marked at once. What is overdue or stalled is left to ``add``: events that are read late have
    been announced in time.
    """
    marked = [(flow, state) for flow, state in flows if flow.mark or state.illegal]
    for flow, state in flows:
        flow.check_at = state.check_at(flow.last_at, now, declared)
        if flow.check_at is None and state.findings(flow.last_at, now, declared):
            flow.check_at = now  # the next tick decides
    if marked:
        _apply(marked, now, declared, additions=(Flow.Mark.ILLEGAL,))


def add(flows: Sequence[Known], now: datetime, declared: Declarations) -> list[MarkOfFlow]:
    """Mark flows, whose rows are locked, with what is wrong with them now. Returns the new marks, not saved."""
    for flow, state in flows:
        flow.check_at = state.check_at(flow.last_at, now, declared)
    return _apply(
        flows, now, declared, additions=(Flow.Mark.ILLEGAL, Flow.Mark.MISSING, Flow.Mark.STALLED, Flow.Mark.DIFFERENT)
    )


def _apply(
    flows: Sequence[Known], now: datetime, declared: Declarations, additions: Iterable[Flow.Mark]
) -> list[MarkOfFlow]:
    rows = MarkOfFlow.objects.filter(flow__in=[flow.pk for flow, _ in flows], cleared_at=None)
    standing: dict[str, dict[str, MarkOfFlow]] = defaultdict(dict)
    for row in rows:
        standing[row.flow][row.kind] = row
    cleared: list[int] = []
    new: list[MarkOfFlow] = []
    for flow, state in flows:
        found: dict[Flow.Mark, Finding] = {}
        for finding in state.findings(flow.last_at, now, declared):
            found.setdefault(finding.mark, finding)
        marks = standing[flow.pk]
        cleared += [row.pk for kind, row in marks.items() if kind not in found]
        kinds = {kind for kind in marks if kind in found}
        for kind, finding in found.items():
            if kind not in marks and kind in additions:
                kinds.add(kind)
                new.append(_mark(flow, finding, now))
        flow.mark = next((mark for mark in Flow.Mark if mark in kinds), Flow.Mark.NONE)
    if cleared:
        MarkOfFlow.objects.filter(pk__in=cleared).update(cleared_at=now)
    insert_all(new, ALIAS)
    return new


def _mark(flow: Flow, finding: Finding, now: datetime) -> MarkOfFlow:
    return MarkOfFlow(
        flow=flow.pk, kind=finding.mark, what=finding.what[:400], culprit=finding.service[:100], since=now
    )
