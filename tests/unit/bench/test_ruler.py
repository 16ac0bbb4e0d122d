"""The ruler itself: percentiles, processor time, what counts as reached, and that wrong rows are noticed."""

import json
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from uuid import uuid4

import psycopg2
import pytest

from bench.__main__ import _kept
from bench.meters import cpu_seconds, family, median, percentile, resident_megabytes
from bench.report import Target
from bench.runs import WrongResult, verify
from bench.servers import Place


def test_a_percentile_is_a_value_that_occurred() -> None:
    values = [5.0, 1.0, 3.0, 2.0, 4.0]

    assert [percentile(values, share) for share in (0.5, 0.8, 0.81, 0.99, 0.0)] == [3.0, 4.0, 5.0, 5.0, 1.0]


def test_a_median_stands_in_the_middle() -> None:
    assert median([3.0, 1.0, 2.0]) == 2.0
    assert median([4.0, 1.0, 2.0, 3.0]) == 2.5


BURN = "t = __import__('time').process_time; [None for _ in iter(lambda: t() > 0.2, True)]"


def test_processor_time_of_children_counts_while_they_live_and_afterwards() -> None:
    burn_in_a_child = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {BURN!r}]); print(); input()"
    with subprocess.Popen(
        [sys.executable, "-c", burn_in_a_child], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as parent:
        assert parent.stdout
        parent.stdout.readline()
        spent, size, members = cpu_seconds(parent.pid), resident_megabytes(parent.pid), family(parent.pid)
        parent.communicate("\n")

    assert spent >= 0.15
    assert size > 1
    assert members == [parent.pid]


@pytest.mark.parametrize(
    ("reached", "at_least", "aim", "verdict"),
    [(5.9, 6, 10, "missed"), (6, 6, 10, "enough"), (10, 6, 10, "aim"), (3.1, 3, 1.5, "missed"), (1.4, 3, 1.5, "aim")],
)
def test_a_target_is_missed_met_or_exceeded(reached: float, at_least: float, aim: float, verdict: str) -> None:
    assert Target("", reached, at_least, aim).verdict == verdict


@pytest.fixture
def place(postgresql_database: str) -> Place:
    """A database in which one order went the whole way."""
    with closing(psycopg2.connect(postgresql_database)) as connection, connection, connection.cursor() as sql:
        sql.execute("CREATE TABLE orders_order (status text, parcel text, authorized_at timestamptz)")
        sql.execute("CREATE TABLE orders_orderline (order_id uuid)")
        sql.execute("CREATE TABLE payments_payment (asked int, authorized int, captured int)")
        sql.execute("CREATE TABLE payments_entry (kind text)")
        sql.execute("CREATE TABLE shipping_shipment (state text)")
        for service in ("orders", "payments", "shipping"):
            sql.execute(f"CREATE TABLE {service}_deadletter (reaction text, error text, event_type text)")
        sql.execute("INSERT INTO orders_order VALUES ('completed', 'parcel', now())")
        sql.execute("INSERT INTO orders_orderline VALUES (%s), (%s)", (str(uuid4()), str(uuid4())))
        sql.execute("INSERT INTO payments_payment VALUES (5, 5, 5)")
        sql.execute("INSERT INTO payments_entry VALUES ('authorized'), ('captured')")
        sql.execute("INSERT INTO shipping_shipment VALUES ('delivered')")
    return Place("one", postgresql_database, "", postgresql_database)


@pytest.mark.postgresql
def test_rows_as_they_should_be_are_counted(place: Place) -> None:
    assert verify(place, 1) == {
        "orders_order": 1,
        "orders_orderline": 2,
        "payments_payment": 1,
        "payments_entry": 2,
        "shipping_shipment": 1,
    }


@pytest.mark.postgresql
@pytest.mark.parametrize(
    "deviation",
    [
        "UPDATE orders_order SET status = 'dispatched'",
        "UPDATE orders_order SET authorized_at = NULL",
        "UPDATE orders_order SET parcel = ''",
        "DELETE FROM orders_orderline WHERE ctid = '(0,1)'",
        "UPDATE payments_payment SET captured = 4",
        "DELETE FROM payments_entry WHERE kind = 'captured'",
        "INSERT INTO payments_entry VALUES ('captured')",
        "UPDATE shipping_shipment SET state = 'dispatched'",
        "INSERT INTO shipping_shipment VALUES ('planned')",
    ],
)
def test_any_deviation_makes_the_result_wrong(place: Place, deviation: str) -> None:
    with closing(psycopg2.connect(place.database)) as connection, connection, connection.cursor() as sql:
        sql.execute(deviation)

    with pytest.raises(WrongResult):
        verify(place, 1)


def test_the_long_ones_stay_as_they_were_where_they_are_not_asked_for(tmp_path: Path) -> None:
    assert _kept(tmp_path) == {}
    (tmp_path / "result.json").write_text(json.dumps({"long": {"inbox": {"ratio": 0.98}}, "orders": 400}))
    assert _kept(tmp_path) == {"long": {"inbox": {"ratio": 0.98}}}
