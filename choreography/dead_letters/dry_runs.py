"""Try a dead letter out: the real reaction runs in a transaction that is rolled back, and no external system is called.

It shows which rows would change and how, and what would be announced; or the external call it would make, for the rest
depends on the answer; or the error. Nothing stays: no row, no claim, no notification, no attempt.

Rows are found through Django's signals. A statement that changes many rows at once sends none: it is named with the
number of its rows, so that nothing goes unsaid.
"""

import json
import re
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any
from uuid import UUID

from django.db import connections, transaction
from django.db.models import (
    BooleanField,
    DateField,
    DecimalField,
    DurationField,
    FloatField,
    ForeignKey,
    IntegerField,
    Model,
    UUIDField,
)
from django.db.models.signals import post_delete, post_save, pre_delete, pre_save

from choreography.core import clock
from choreography.dead_letters.actions import By, record_action
from choreography.events.external_systems import WouldCall, refusing_calls
from choreography.events.personal import MASK, masked
from choreography.inbox import handler
from choreography.inbox.deliveries import Delivery, Duplicate
from choreography.outbox.announcing import transaction_of
from choreography.storage.models import DeadLetter, DeadLetterAction, Inbox, Outbox
from choreography.storage.tables import ServiceTables

Outcome = DeadLetterAction.Outcome
_IMPERSONAL = (IntegerField, DecimalField, FloatField, BooleanField, DateField, DurationField, UUIDField, ForeignKey)
#: A row as the database has it, by column; ``None``: there is none.
Row = dict[str, Any] | None

_WRITES = re.compile(r'\s*(INSERT INTO|UPDATE|DELETE FROM)\s+"?(\w+)', re.IGNORECASE)


@dataclass(frozen=True)
class Change:
    """What would happen to one row."""

    row: str
    """``payments.payment 0191...``"""
    what: str
    """``added``, ``changed`` or ``removed``"""
    fields: dict[str, tuple[str | None, str | None]]
    """Old and new value by column, of those that differ."""
    may_be_personal: tuple[str, ...] = ()
    """The columns among them in which a person may have written."""

    def masked(self) -> "Change":
        """The same, with what may be personal replaced by ``***``."""
        fields = {
            name: (_mask(old), _mask(new)) if name in self.may_be_personal else (old, new)
            for name, (old, new) in self.fields.items()
        }
        return replace(self, fields=fields)


@dataclass(frozen=True)
class DryRun:
    """What would come of sending a dead letter again. It may hold personal data: show it, never log it."""

    outcome: Outcome
    changes: list[Change] = field(default_factory=list)
    announces: list[dict[str, Any]] = field(default_factory=list)
    """``{"type": ..., "data": {...}}`` of each event."""
    statements: list[str] = field(default_factory=list)
    """Statements that change rows unseen: ``UPDATE payments_payment (3 rows)``."""
    calls: dict[str, Any] | None = None
    """The external call it would make: ``{"system": ..., "method": ..., "arguments": {...}}``"""
    error: str = ""
    traceback: str = ""

    @property
    def is_promising(self) -> bool:
        """Sending it again would do no harm: it would take effect, or has already."""
        return self.outcome in (Outcome.WOULD_TAKE_EFFECT, Outcome.WOULD_DO_NOTHING)

    def masked(self) -> "DryRun":
        """The same, with what is or may be personal replaced by ``***``."""
        announces = [{"type": event["type"], "data": masked(event["type"], event["data"])} for event in self.announces]
        calls = self.calls and self.calls | {
            "arguments": {
                name: value if isinstance(value, int | UUID) else MASK
                for name, value in self.calls["arguments"].items()
            }
        }
        return replace(self, changes=[change.masked() for change in self.changes], announces=announces, calls=calls)


def dry_run(dead_letter: DeadLetter, by: By) -> DryRun:
    """Tell what sending a dead letter again would do now, and record in its history that someone asked."""
    service = dead_letter._meta.app_label
    alias = ServiceTables(service).alias
    with refusing_calls(), transaction.atomic(using=alias):
        try:
            found = _try_out(dead_letter, service, alias)
        finally:
            transaction.set_rollback(True, using=alias)
    call = "{system}: {method}".format(**found.calls) if found.calls else ""
    detail = call or found.error.partition(":")[0]
    with transaction_of(service):
        what = DeadLetterAction.What.DRY_RUN
        record_action(dead_letter, by, what, outcome=found.outcome, detail=detail, ended_at=clock.now())
    return found


def _try_out(dead_letter: DeadLetter, service: str, alias: str) -> DryRun:
    delivery = Delivery(service, bytes(dead_letter.body), dead_letter.content_type or None)
    try:
        with _watching(alias) as watch:
            outcome = handler.try_out(delivery)
    except WouldCall as call:
        return DryRun(
            Outcome.WOULD_CALL, calls={"system": call.system, "method": call.method, "arguments": call.arguments}
        )
    except Exception as error:  # whatever it is, a person asked to see it
        return DryRun(
            Outcome.WOULD_FAIL,
            error=f"{type(error).__name__}: {error}",
            traceback="".join(traceback.format_exception(error)),
        )
    if isinstance(outcome, Duplicate):
        return DryRun(Outcome.WOULD_DO_NOTHING)
    return DryRun(Outcome.WOULD_TAKE_EFFECT, watch.changes(), watch.announced(), watch.statements)


class _Watch:
    """Records which rows one thread touches through one connection, and what they were before."""

    def __init__(self, alias: str) -> None:
        self._alias = alias
        self._thread = threading.get_ident()
        self._before: dict[tuple[type[Model], Any], Row] = {}
        self._told: set[str] = set()
        self.statements: list[str] = []

    def begin(self, sender: type[Model], instance: Model, using: str, **_: Any) -> None:
        """A row is about to be saved or deleted."""
        if self._is_ours(using):
            self._told.add(sender._meta.db_table)
            self._touch(sender, instance)

    def end(self, sender: type[Model], instance: Model, using: str, **_: Any) -> None:
        """It was: now it has a key."""
        if self._is_ours(using):
            self._told.discard(sender._meta.db_table)
            self._touch(sender, instance, is_new=True)

    def execute(self, execute: Callable[..., Any], sql: str, params: Any, many: bool, context: Any) -> Any:
        """Name what changes rows without a signal. (A wrapper of ``connection.execute_wrapper``.)"""
        result = execute(sql, params, many, context)
        found = _WRITES.match(sql)
        if found and found[2] not in self._told:
            self.statements.append(f"{found[1].upper()} {found[2]} ({context['cursor'].rowcount} rows)")
        if sql.startswith("ROLLBACK TO"):
            self._told.clear()  # a save that failed has no end
        return result

    def changes(self) -> list[Change]:
        """Every row that differs from before, but for those of the machinery."""
        differing = []
        for (model, key), old in self._before.items():
            new = self._row(model, key)
            if old == new or issubclass(model, Inbox | Outbox):
                continue
            columns = (new or old or {}).keys()
            fields = {
                name: (_text(old and old[name]), _text(new and new[name]))
                for name in columns
                if old is None or new is None or old[name] != new[name]
            }
            what = "added" if old is None else "removed" if new is None else "changed"
            may_be_personal = tuple(name for name in fields if _may_be_personal(model, name))
            differing.append(Change(f"{model._meta.label_lower} {key}", what, fields, may_be_personal))
        return differing

    def announced(self) -> list[dict[str, Any]]:
        """The events in the outbox that were not there before."""
        rows = [self._row(model, key) for (model, key), old in self._before.items() if issubclass(model, Outbox)]
        bodies = [json.loads(row["body"]) for row in rows if row]
        return [{"type": body["type"], "data": body["data"]} for body in bodies]

    def _is_ours(self, using: str) -> bool:
        return using == self._alias and threading.get_ident() == self._thread

    def _touch(self, model: type[Model], instance: Model, *, is_new: bool = False) -> None:
        if instance.pk is not None and (model, instance.pk) not in self._before:
            self._before[model, instance.pk] = None if is_new else self._row(model, instance.pk)

    def _row(self, model: type[Model], key: Any) -> Row:
        return model._base_manager.using(self._alias).filter(pk=key).values().first()


@contextmanager
def _watching(alias: str) -> Iterator[_Watch]:
    watch = _Watch(alias)
    signals = ((pre_save, watch.begin), (post_save, watch.end), (pre_delete, watch.begin), (post_delete, watch.end))
    for signal, receiver in signals:
        signal.connect(receiver)
    try:
        with connections[alias].execute_wrapper(watch.execute):
            yield watch
    finally:
        for signal, receiver in signals:
            signal.disconnect(receiver)


def _may_be_personal(model: type[Model], column: str) -> bool:
    """Whether a person may have written a column's value: not a key, a number, a time, or one of a few choices."""
    of_column: Any = model._meta.get_field(column)
    return not (isinstance(of_column, _IMPERSONAL) or of_column.primary_key or of_column.choices)


def _mask(value: str | None) -> str | None:
    return None if value is None else MASK


def _text(value: Any) -> str | None:
    return None if value is None else str(value)
