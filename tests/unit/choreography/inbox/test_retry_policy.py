"""The retry policy, as a table: what becomes of a delivery after an error."""

import sqlite3
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path

import psycopg2
import psycopg2.errors
import pytest
from django.db import (
    DatabaseError,
    DataError,
    IntegrityError,
    InterfaceError,
    InternalError,
    OperationalError,
    ProgrammingError,
    connections,
)
from django.db.backends.sqlite3.base import DatabaseWrapper

from choreography.core.classification import classify, is_database_down
from choreography.core.conf import Conf
from choreography.core.errors import Conflict, ContractError, NotYet, Outage, PublishFailed, Transient, Unusable
from choreography.inbox.deliveries import ATTEMPTS, DEAD_LETTER, FIRST_SEEN, WAITS, Delivery
from choreography.inbox.handler import _again
from choreography.inbox.retry_policy import History, Park, TryAgain, decide

NOW = datetime(2026, 1, 1, 12, tzinfo=UTC)
CONF = Conf()


def after(error: Exception, *, attempts: int = 0, waits: int = 0, age: timedelta = timedelta(0)) -> TryAgain | Park:
    return decide(error, History(NOW - age, attempts, waits), NOW, 0.5, CONF)


@pytest.mark.parametrize(
    ("error", "attempts", "waits", "age", "verdict"),
    [
        # What no retry mends is parked at once,
        (Unusable(), 0, 0, timedelta(0), Park(1)),
        (ContractError(), 0, 0, timedelta(0), Park(1)),
        # a bug at the third attempt,
        (ZeroDivisionError(), 0, 0, timedelta(0), TryAgain),
        (ZeroDivisionError(), 1, 0, timedelta(days=9), TryAgain),
        (ZeroDivisionError(), 2, 0, timedelta(0), Park(3)),
        # a passing fault at the tenth, or when it has lasted for a day,
        (Transient(), 0, 0, timedelta(0), TryAgain),
        (Transient(), 8, 0, timedelta(hours=23), TryAgain),
        (Transient(), 9, 0, timedelta(0), Park(10)),
        (Transient(), 0, 0, timedelta(days=1), Park(1)),
        (Transient(), 0, 50, timedelta(0), TryAgain),
        (Conflict(), 9, 0, timedelta(0), Park(10)),
        (PublishFailed(), 9, 0, timedelta(0), Park(10)),
        # a wait for another event after ten minutes,
        (NotYet(), 0, 0, timedelta(minutes=9), TryAgain),
        (NotYet(), 2, 9, timedelta(minutes=10), Park(2)),
        # and what is only down: never.
        (Outage(), 0, 0, timedelta(0), TryAgain),
        (Outage(), 9, 999, timedelta(days=365), TryAgain),
        (OperationalError("server closed the connection"), 9, 999, timedelta(days=365), TryAgain),
    ],
    ids=repr,
)
def test_the_table(error: Exception, attempts: int, waits: int, age: timedelta, verdict: type[TryAgain] | Park) -> None:
    found = after(error, attempts=attempts, waits=waits, age=age)
    assert found == verdict if isinstance(verdict, Park) else isinstance(found, verdict)


def test_a_fault_uses_up_an_attempt_and_an_outage_or_a_wait_does_not() -> None:
    def counted(error: Exception) -> tuple[int, int]:
        again = after(error, attempts=3, waits=4)
        assert isinstance(again, TryAgain)
        return again.history.attempts, again.history.waits

    assert counted(Transient()) == (4, 4)
    assert counted(NotYet()) == (3, 5)
    assert counted(Outage()) == (3, 5)


def test_an_outage_does_not_make_a_delivery_old() -> None:
    """Else the first hiccup after it, or the first prerequisite still missing, would park the delivery."""
    again = after(Outage(), age=timedelta(days=3))
    assert isinstance(again, TryAgain)
    assert again.history.first_seen == NOW

    later = NOW + timedelta(minutes=5)
    assert isinstance(decide(NotYet(), again.history, later, 0.5, CONF), TryAgain)
    assert isinstance(decide(Transient(), again.history, later, 0.5, CONF), TryAgain)


def test_a_fault_does_make_a_delivery_older() -> None:
    again = after(Transient(), age=timedelta(hours=3))
    assert isinstance(again, TryAgain)
    assert again.history.first_seen == NOW - timedelta(hours=3)


def rung(error: Exception, steps: int, conf: Conf = CONF) -> int:
    again = decide(error, History(NOW, attempts=steps, waits=steps), NOW, 0.5, conf)
    assert isinstance(again, TryAgain)
    return again.rung


def test_a_fault_climbs_the_ladder_one_rung_at_a_time_and_stays_on_its_top() -> None:
    assert [rung(Transient(), steps) for steps in range(6)] == [1, 5, 30, 300, 300, 300]


def test_what_waits_for_something_that_is_down_goes_on_soon_after_it_is_back() -> None:
    assert [rung(Outage(), steps) for steps in (0, 1, 2, 3, 99)] == [1, 5, 30, 30, 30]


def test_what_waits_for_another_event_looks_for_it_often_at_first() -> None:
    assert [rung(NotYet(), steps) for steps in (0, 1, 9, 10, 19, 20, 99)] == [1, 1, 1, 5, 5, 30, 30]


def test_a_ladder_without_short_rungs_is_waited_on_at_its_first() -> None:
    assert [rung(Outage(), steps, Conf(retry_rungs=(60, 600))) for steps in (0, 1, 2)] == [60, 60, 60]


@pytest.mark.parametrize(("jitter", "delay"), [(0.0, 15.0), (0.5, 22.5), (1.0, 30.0)])
def test_delays_are_spread_over_the_upper_half_of_the_rung(jitter: float, delay: float) -> None:
    again = decide(Outage(), History(NOW, waits=2), NOW, jitter, CONF)
    assert isinstance(again, TryAgain)
    assert (again.rung, again.delay) == (30, delay)


# What database errors mean


def on_postgresql(kind: type[Exception], state: str | None) -> Exception:
    """An error as Django passes it on from psycopg2, which notes the server's SQLSTATE on it."""
    base = psycopg2.errors.lookup(state) if state else psycopg2.OperationalError

    class Cause(base):  # type: ignore[misc, valid-type]
        pgcode = state

    error = kind("what the server said")
    error.__cause__ = Cause()
    return error


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (OperationalError("could not connect to server: Connection refused"), Outage),
        (InterfaceError("connection already closed"), Outage),
        (DatabaseError("error with status PGRES_TUPLES_OK and no message from the libpq"), Outage),
        (IntegrityError("UNIQUE constraint failed"), Transient),
        (Conflict(), Transient),
        (ConnectionResetError(), Transient),
        (TimeoutError(), Transient),
        (DataError("value too long"), DataError),
        (ProgrammingError("no such relation"), ProgrammingError),
        (InternalError("current transaction is aborted"), InternalError),
        (ValueError(), ValueError),
        (Outage(), Outage),
    ],
    ids=repr,
)
def test_what_an_error_stands_for(error: Exception, kind: type[Exception]) -> None:
    assert classify(error) is kind


@pytest.mark.parametrize(
    ("raised", "state", "kind"),
    [
        (OperationalError, "40P01", Transient),  # deadlock
        (OperationalError, "40001", Transient),  # serialization failure
        (OperationalError, "55P03", Transient),  # lock not available
        (OperationalError, "57014", Transient),  # statement timeout
        (OperationalError, "57P01", Outage),  # shut down by an administrator
        (OperationalError, "57P03", Outage),  # starting up
        (OperationalError, "53300", Outage),  # too many connections
        (OperationalError, "53100", Outage),  # disk full
        (OperationalError, "08006", Outage),  # connection failure
        (OperationalError, None, Outage),  # no answer at all
        (InternalError, "25006", Outage),  # read-only: another server has become the first
        (InternalError, "25P02", InternalError),  # a transaction that failed before: our fault
    ],
)
def test_what_an_error_of_postgresql_stands_for(raised: type[Exception], state: str, kind: type[Exception]) -> None:
    error = on_postgresql(raised, state)
    assert classify(error) is kind
    assert is_database_down(error) is (kind is Outage)


def on_sqlite(path: Path, *statements: str) -> Exception:
    """What Django raises for the last of these statements, run on a file, the real thing."""
    database = DatabaseWrapper(connections.settings["default"] | {"NAME": path, "OPTIONS": {"timeout": 0}}, "sqlite")
    try:
        with database.cursor() as cursor:
            for statement in statements:
                cursor.execute(statement)
    except Exception as error:
        return error
    finally:
        database.close()
    raise AssertionError("no error")


@pytest.mark.django_db
def test_what_an_error_of_sqlite_stands_for(tmp_path: Path) -> None:
    path = tmp_path / "a.sqlite3"
    missing = on_sqlite(path, "SELECT 1 FROM missing")
    assert isinstance(missing, OperationalError)
    assert classify(missing) is Outage, "its migration is still to come"

    with closing(sqlite3.connect(path)) as other:
        other.execute("BEGIN IMMEDIATE")
        assert classify(on_sqlite(path, "CREATE TABLE t (n)")) is Transient

    assert classify(on_sqlite(tmp_path / "nowhere" / "a.sqlite3", "SELECT 1")) is Outage
    assert classify(on_sqlite(path, "PRAGMA query_only = 1", "CREATE TABLE t (n)")) is Outage


def test_an_outage_of_another_system_is_none_of_the_database() -> None:
    assert not is_database_down(Outage())
    assert is_database_down(OperationalError("gone"))


# The history travels in the message's headers


def test_a_history_comes_back_as_it_was_sent() -> None:
    history = History(NOW - timedelta(microseconds=1), attempts=3, waits=7)
    delivery = Delivery("payments", b"{}", "application/cloudevents+json", {"traceparent": "00-1", "x-death": [{}]})

    again = _again(delivery, TryAgain(rung=30, delay=22.5, history=history))

    assert (again.exchange, again.routing_key, again.expiration) == ("", "payments.retry.30s", 22.5)
    assert (again.body, again.content_type) == (delivery.body, delivery.content_type)
    assert again.headers["traceparent"] == "00-1"
    assert "x-death" not in again.headers
    assert Delivery("payments", again.body, again.content_type, again.headers).history == history


def test_a_message_without_history_is_new() -> None:
    assert Delivery("payments", b"").history.attempts == 0


@pytest.mark.parametrize(
    "headers",
    [
        {ATTEMPTS: -1},
        {WAITS: -1},
        {ATTEMPTS: 10**9},
        {ATTEMPTS: float("inf")},
        {ATTEMPTS: "many"},
        {WAITS: None},
        {FIRST_SEEN: "2026-01-01T00:00:00"},
        {FIRST_SEEN: "yesterday"},
        {FIRST_SEEN: 0},
    ],
    ids=repr,
)
def test_a_history_that_makes_no_sense_is_none(headers: dict[str, object]) -> None:
    sound = {ATTEMPTS: 3, WAITS: 2, FIRST_SEEN: NOW.isoformat()}
    assert Delivery("payments", b"", headers=sound).history == History(NOW, 3, 2)
    found = Delivery("payments", b"", headers=sound | headers).history
    assert (found.attempts, found.waits) == (0, 0)
    assert found.first_seen.tzinfo is not None


@pytest.mark.parametrize("key", [None, 7, ["a"], "", "x" * 151, "a\0b"], ids=repr)
def test_a_dead_letter_that_is_no_key_is_none(key: object) -> None:
    assert Delivery("payments", b"", headers={DEAD_LETTER: key}).dead_letter is None
    assert Delivery("payments", b"", headers={DEAD_LETTER: "0f"}).dead_letter == "0f"
