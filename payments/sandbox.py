"""A payment provider in a file: answers as a real one would, and takes no money.

It keeps its own records, so that what payments believes can be compared with what the provider did,
and its own rules, as a provider does: it never trusts the caller to capture once. What goes wrong
is chosen by the token (see ``TOKENS``).
"""

import hashlib
import json
import sqlite3
import time
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, fields
from datetime import datetime
from pathlib import Path
from typing import Final, Literal, cast
from uuid import NAMESPACE_URL, uuid5

from django.conf import settings
from django.utils.translation import gettext_lazy as _

from choreography.core import clock
from common.sandbox_records import Records
from payments.gateway import (
    Authorized,
    Captured,
    Declined,
    GatewayDown,
    GatewayError,
    GatewayTimeout,
    KeyReused,
    Movement,
    Outcome,
    Refunded,
    Refused,
    Voided,
)

TOKENS: Final = {
    "tok_approved": _("Approved."),
    "tok_declined_funds": _("Declined: insufficient funds."),
    "tok_declined_expired": _("Declined: the card has expired."),
    "tok_declined_fraud": _("Declined: suspected fraud."),
    "tok_fails_twice": _("The gateway fails twice, then approves."),
    "tok_down": _("The gateway can't be reached."),
    "tok_timeout": _("Approved, but the answer is lost."),
    "tok_slow": _("Approved, but the answer takes its time."),
    "tok_capture_refused": _("Approved; the capture is refused, the authorization having expired."),
    "tok_capture_timeout": _("Approved and captured, but the answer to the capture is lost."),
}
"""The test tokens and what each does. Any other token is declined as ``invalid_token``."""

_DECLINED = {
    "tok_declined_funds": "insufficient_funds",
    "tok_declined_expired": "expired_card",
    "tok_declined_fraud": "suspected_fraud",
}

_CAPTURE_REFUSED = {"tok_capture_refused": "authorization_expired"}

Kind = Literal["authorize", "capture", "void", "refund"]
_DONE = {"capture": "captured", "void": "voided", "refund": "refunded"}

_SCHEMA = """
CREATE TABLE operations (
    key TEXT PRIMARY KEY, kind TEXT NOT NULL, reference TEXT NOT NULL, token TEXT NOT NULL,
    amount INTEGER NOT NULL, currency TEXT NOT NULL, outcome TEXT NOT NULL, reason TEXT NOT NULL,
    recorded_at TEXT NOT NULL, request TEXT NOT NULL
);
CREATE INDEX operations_of ON operations (reference);
CREATE TABLE calls (key TEXT PRIMARY KEY, count INTEGER NOT NULL);
"""


@dataclass(frozen=True)
class RecordEntry:
    """One operation, named by its idempotency key."""

    key: str
    kind: Kind
    reference: str
    """The authorization it belongs to; empty where it was declined."""
    token: str
    """The test token of that authorization; any other is not kept: it might be a real card's."""
    amount: int
    """What was moved, in minor units: 0 where it was declined or refused."""
    currency: str
    outcome: str
    """authorized, declined, captured, voided, refunded or refused."""
    reason: str
    """Why it was declined or refused; else empty."""
    recorded_at: datetime


_COLUMNS = [field.name for field in fields(RecordEntry)]
_INSERT = (
    "INSERT INTO operations VALUES (:key, :kind, :reference, :token, :amount, :currency, :outcome,"
    " :reason, :recorded_at, :request)"
)


class SandboxGateway:
    """A ``Gateway`` for trying out and for tests. Any number of instances may share one file.

    ``clock`` gives the time of an entry, ``sleep`` passes time: ``latency_seconds`` on every call,
    and ``slow_seconds`` for ``tok_slow``. What is not given comes from the settings.
    """

    def __init__(
        self,
        path: Path | None = None,
        *,
        clock: Callable[[], datetime] = clock.now,
        sleep: Callable[[float], None] = time.sleep,
        slow_seconds: float | None = None,
        latency_seconds: float | None = None,
    ) -> None:
        self._records = Records(path or settings.SANDBOX_DIR / "gateway.sqlite3", _SCHEMA)
        self._clock = clock
        self._sleep = sleep
        self._slow_seconds = settings.SANDBOX_SLOW_SECONDS if slow_seconds is None else slow_seconds
        self._latency_seconds = settings.SANDBOX_LATENCY_SECONDS if latency_seconds is None else latency_seconds

    def authorize(self, *, key: str, token: str, amount: int, currency: str) -> Authorized | Declined:
        self._travel()
        match token:
            case "tok_down":
                raise GatewayDown("the sandbox gateway can't be reached")
            case "tok_fails_twice" if self._count_call(key) <= 2:
                raise GatewayError("the sandbox gateway failed")
        reason = _why_declined(token, amount)
        entry = RecordEntry(
            key=key,
            kind="authorize",
            reference="" if reason else f"auth_{uuid5(NAMESPACE_URL, key).hex}",
            token=token if token in TOKENS else "",
            amount=0 if reason else amount,
            currency=currency,
            outcome="declined" if reason else "authorized",
            reason=reason,
            recorded_at=self._clock(),
        )
        booked = self._once(key, ("authorize", token, amount, currency), lambda _db: entry)
        return cast("Authorized | Declined", _outcome(booked))

    def capture(self, *, key: str, reference: str, amount: int) -> Captured | Refused:
        return cast("Captured | Refused", self._settle("capture", key, reference, amount))

    def void(self, *, key: str, reference: str) -> Voided | Refused:
        return cast("Voided | Refused", self._settle("void", key, reference, None))

    def refund(self, *, key: str, reference: str, amount: int) -> Refunded | Refused:
        return cast("Refunded | Refused", self._settle("refund", key, reference, amount))

    def find(self, key: str) -> Outcome | None:
        self._travel()
        found = _read(self._records.rows("SELECT * FROM operations WHERE key = ?", key))
        return _outcome(found[0]) if found else None

    def movements(self, first: str, last: str) -> list[Movement]:
        self._travel()
        query = "SELECT * FROM operations WHERE key >= ? AND key < ? AND outcome IN ('captured', 'refunded')"
        return [
            Movement(entry.key, cast('Literal["captured", "refunded"]', entry.outcome), entry.amount, entry.currency)
            for entry in _read(self._records.rows(query, first, last))
        ]

    def records(self) -> list[RecordEntry]:
        """Everything on record, in the order in which it was booked."""
        return _read(self._records.rows("SELECT * FROM operations ORDER BY rowid"))

    def _settle(self, kind: Kind, key: str, reference: str, amount: int | None) -> Outcome:
        """Capture, void (no amount: all that is held) or refund."""
        self._travel()

        def decide(db: sqlite3.Connection) -> RecordEntry:
            before = _read(db.execute("SELECT * FROM operations WHERE reference = ?", (reference,)))
            held = next((entry for entry in before if entry.outcome == "authorized"), None)
            moved = _moved(before)
            token = held.token if held else ""
            asked = moved["authorized"] if amount is None else amount
            reason = _why_refused(kind, token, moved, asked)
            return RecordEntry(
                key=key,
                kind=kind,
                reference=reference,
                token=token,
                amount=0 if reason else asked,
                currency=held.currency if held else "",
                outcome="refused" if reason else _DONE[kind],
                reason=reason,
                recorded_at=self._clock(),
            )

        return _outcome(self._once(key, (kind, reference, amount), decide))

    def _once(
        self,
        key: str,
        parameters: tuple[str | int | None, ...],
        decide: Callable[[sqlite3.Connection], RecordEntry],
    ) -> RecordEntry:
        """The entry of this key: the one on record, or the one decided on now."""
        # A digest, because an unknown token is not to be kept.
        request = hashlib.sha256(json.dumps(parameters).encode()).hexdigest()
        with self._records.writing() as db:
            found = db.execute("SELECT * FROM operations WHERE key = ?", (key,)).fetchall()
            if found and found[0]["request"] != request:
                raise KeyReused(f"idempotency key {key!r} was used with other parameters")
            if found:
                return _read(found)[0]
            entry = decide(db)
            recorded_at = entry.recorded_at.isoformat()
            db.execute(_INSERT, asdict(entry) | {"recorded_at": recorded_at, "request": request})
        self._answer_late(entry)
        return entry

    def _answer_late(self, entry: RecordEntry) -> None:
        match entry.token, entry.outcome:
            case "tok_slow", "authorized":
                self._sleep(self._slow_seconds)
            case ("tok_timeout", "authorized") | ("tok_capture_timeout", "captured"):
                raise GatewayTimeout("the sandbox gateway did not answer in time")

    def _count_call(self, key: str) -> int:
        with self._records.writing() as db:
            db.execute(
                "INSERT INTO calls VALUES (?, 1) ON CONFLICT (key) DO UPDATE SET count = count + 1",
                (key,),
            )
            (count,) = db.execute("SELECT count FROM calls WHERE key = ?", (key,)).fetchone()
        return int(count)

    def _travel(self) -> None:
        if self._latency_seconds:
            self._sleep(self._latency_seconds)


def _why_declined(token: str, amount: int) -> str:
    """The reason to decline, or nothing."""
    if token not in TOKENS:
        return "invalid_token"
    if amount <= 0:
        return "invalid_amount"
    return _DECLINED.get(token, "")


def _why_refused(kind: Kind, token: str, moved: Counter[str], amount: int) -> str:
    """The reason to refuse, or nothing. ``moved``: see ``_moved``."""
    if not moved["authorized"]:
        return "unknown_reference"
    if amount <= 0:
        return "invalid_amount"
    if kind == "refund":
        return _why_not_refunded(moved, amount)
    if moved["voided"]:
        return "already_voided"
    if kind == "void":
        return "already_captured" if moved["captured"] else ""
    if token in _CAPTURE_REFUSED:
        return _CAPTURE_REFUSED[token]
    if moved["captured"] + amount > moved["authorized"]:
        return "already_captured" if moved["captured"] else "exceeds_authorized"
    return ""


def _why_not_refunded(moved: Counter[str], amount: int) -> str:
    if not moved["captured"]:
        return "not_captured"
    if moved["refunded"] + amount > moved["captured"]:
        return "already_refunded" if moved["refunded"] else "exceeds_captured"
    return ""


def _moved(entries: list[RecordEntry]) -> Counter[str]:
    """The amounts authorized, captured, voided and refunded by these entries."""
    moved = Counter[str]()
    for entry in entries:
        moved[entry.outcome] += entry.amount
    return moved


def _read(rows: Iterable[sqlite3.Row]) -> list[RecordEntry]:
    found = [{column: row[column] for column in _COLUMNS} for row in rows]
    return [RecordEntry(**e | {"recorded_at": datetime.fromisoformat(e["recorded_at"])}) for e in found]


def _outcome(entry: RecordEntry) -> Outcome:
    match entry.outcome:
        case "authorized":
            return Authorized(entry.reference, entry.amount, entry.currency)
        case "declined":
            return Declined(entry.reason)
        case "captured":
            return Captured(entry.reference, entry.amount)
        case "voided":
            return Voided(entry.reference, entry.amount)
        case "refunded":
            return Refunded(entry.reference, entry.amount)
        case _:
            return Refused(entry.reason)
