"""A carrier in a file: books, tracks and delivers as a real one would, and carries nothing.

It keeps its own records, so that what shipping believes can be compared with what the carrier did.
A word in the street decides what becomes of a parcel (see ``ADDRESSES``). Nothing else of an
address is kept; hence a repeated key is answered without comparing addresses.
"""

import sqlite3
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Final
from uuid import NAMESPACE_URL, uuid5

from django.conf import settings
from django.utils.translation import gettext_lazy as _

from choreography.core import clock
from common.sandbox_records import Records
from shipping.carrier import (
    Address,
    Booked,
    CarrierDown,
    Tracking,
    Undeliverable,
    UnknownParcel,
)

ADDRESSES: Final = {
    "undeliverable": _("Refused: there is no such address."),
    "unreachable": _("The carrier can't be reached."),
    "lost": _("Booked, then lost on the way."),
    "slow": _("Delivered after five times as long."),
}
"""Words in a street and what each does; the first in this order counts. Else it arrives in time."""

SLOW_FACTOR = 5

_SCHEMA = """
CREATE TABLE bookings (
    key TEXT PRIMARY KEY, parcel TEXT UNIQUE, scenario TEXT NOT NULL, booked_at TEXT NOT NULL,
    due_at TEXT, cancelled_at TEXT
);
"""


@dataclass(frozen=True)
class ParcelEntry:
    """One booking, named by its idempotency key."""

    key: str
    parcel: str | None
    """None where it was undeliverable; then ``state`` and ``due_at`` are None as well."""
    state: Tracking | None
    """As of now, by the carrier's clock."""
    scenario: str
    """The word of ``ADDRESSES`` that decided, or empty."""
    booked_at: datetime
    due_at: datetime | None
    """When it is delivered, or lost, unless it is called back before."""


class SandboxCarrier:
    """A ``Carrier`` for trying out and for tests. Any number of instances may share one file.

    By ``clock`` a parcel is in transit, and can be called back, for ``delivery_seconds`` after its
    booking. ``sleep`` passes ``latency_seconds`` on every call. What is not given comes from the
    settings.
    """

    def __init__(
        self,
        path: Path | None = None,
        *,
        clock: Callable[[], datetime] = clock.now,
        sleep: Callable[[float], None] = time.sleep,
        delivery_seconds: float | None = None,
        latency_seconds: float | None = None,
    ) -> None:
        self._records = Records(path or settings.SANDBOX_DIR / "carrier.sqlite3", _SCHEMA)
        self._clock = clock
        self._sleep = sleep
        self._delivery_seconds = settings.SANDBOX_DELIVERY_SECONDS if delivery_seconds is None else delivery_seconds
        self._latency_seconds = settings.SANDBOX_LATENCY_SECONDS if latency_seconds is None else latency_seconds

    def book(self, *, key: str, address: Address) -> Booked | Undeliverable:
        self._travel()
        scenario = _scenario(address)
        if scenario == "unreachable":
            raise CarrierDown("the sandbox carrier can't be reached")
        now = self._clock()
        taken = scenario != "undeliverable"
        parcel = f"parcel_{uuid5(NAMESPACE_URL, key).hex}" if taken else None
        due = self._due(scenario, now).isoformat() if taken else None
        with self._records.writing() as db:
            db.execute(
                "INSERT INTO bookings VALUES (?, ?, ?, ?, ?, NULL) ON CONFLICT (key) DO NOTHING",
                (key, parcel, scenario, now.isoformat(), due),
            )
            first = db.execute("SELECT * FROM bookings WHERE key = ?", (key,)).fetchone()
        return _outcome(first)

    def cancel(self, *, parcel: str) -> bool:
        self._travel()
        with self._records.writing() as db:
            found = db.execute("SELECT * FROM bookings WHERE parcel = ?", (parcel,)).fetchall()
            state = self._state(_only(found))
            if state is Tracking.IN_TRANSIT:
                db.execute(
                    "UPDATE bookings SET cancelled_at = ? WHERE parcel = ?",
                    (self._clock().isoformat(), parcel),
                )
        return state in (Tracking.IN_TRANSIT, Tracking.CANCELLED)

    def track(self, parcel: str) -> Tracking:
        self._travel()
        found = self._records.rows("SELECT * FROM bookings WHERE parcel = ?", parcel)
        return self._state(_only(found))

    def find(self, key: str) -> Booked | Undeliverable | None:
        self._travel()
        found = self._records.rows("SELECT * FROM bookings WHERE key = ?", key)
        return _outcome(found[0]) if found else None

    def records(self) -> list[ParcelEntry]:
        """Everything on record, in the order in which it was booked."""
        rows = self._records.rows("SELECT * FROM bookings ORDER BY rowid")
        return [self._entry(row) for row in rows]

    def _due(self, scenario: str, booked_at: datetime) -> datetime:
        factor = SLOW_FACTOR if scenario == "slow" else 1
        return booked_at + timedelta(seconds=self._delivery_seconds * factor)

    def _state(self, row: sqlite3.Row) -> Tracking:
        if row["cancelled_at"]:
            return Tracking.CANCELLED
        if self._clock() < datetime.fromisoformat(row["due_at"]):
            return Tracking.IN_TRANSIT
        return Tracking.LOST if row["scenario"] == "lost" else Tracking.DELIVERED

    def _entry(self, row: sqlite3.Row) -> ParcelEntry:
        taken = row["parcel"] is not None
        return ParcelEntry(
            key=row["key"],
            parcel=row["parcel"],
            state=self._state(row) if taken else None,
            scenario=row["scenario"],
            booked_at=datetime.fromisoformat(row["booked_at"]),
            due_at=datetime.fromisoformat(row["due_at"]) if taken else None,
        )

    def _travel(self) -> None:
        if self._latency_seconds:
            self._sleep(self._latency_seconds)


def _scenario(address: Address) -> str:
    street = address.street.lower()
    return next((word for word in ADDRESSES if word in street), "")


def _only(rows: list[sqlite3.Row]) -> sqlite3.Row:
    if not rows:
        raise UnknownParcel("the sandbox carrier has no such parcel")
    return rows[0]


def _outcome(row: sqlite3.Row) -> Booked | Undeliverable:
    return Booked(row["parcel"]) if row["parcel"] else Undeliverable("no_such_address")
