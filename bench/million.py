"""The journal's pages with a million flows: ``python -m bench.million``, or ``FLOWS=100000 python -m bench.million``.

A PostgreSQL of its own gets the flows from a few statements. Then each page is asked for, through Django with its
middleware and templates, and the time and the number of queries are told. Exit code 1 if a page takes too much.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from tests.processes import ROOT, clean_environment, make_tables
from tests.servers import own_postgresql, run_sql

#: Milliseconds at the server, 95 of 100 times; and queries of a page.
ALLOWED_MS, ALLOWED_QUERIES = 150, 12
#: How often each page is asked for.
_TIMES = 60

_FLOWS = """
INSERT INTO journal_flow
       (id, number, started_at, last_at, "end", end_at, ended_at, needs_person, parked, events, mark, state)
SELECT id, upper(right(id, 8)), at, at + interval '9 seconds',
       CASE WHEN is_open THEN '' WHEN n % 10 < 7 THEN 'orders.order_completed.v1' ELSE 'orders.order_cancelled.v1' END,
       CASE WHEN NOT is_open THEN at + interval '9 seconds' END,
       CASE WHEN NOT is_open THEN at + interval '9 seconds' END,
       n % 1000 = 1, CASE WHEN n % 2000 = 0 THEN 1 ELSE 0 END, 6, CASE WHEN n % 5000 = 0 THEN 'missing' ELSE '' END,
       '{"events": {}}'::jsonb
FROM (SELECT n, md5(n::text)::uuid::text AS id, now() - n * interval '30 seconds' AS at, n % 100 = 0 AS is_open
      FROM generate_series(1, FLOWS) n) made
"""
_ENTRIES = """
INSERT INTO journal_entry
       (event_id, flow, type, source, subject, caused_by, traceparent, parent_span, body, announced_at, published_at,
        recorded_at)
SELECT gen_random_uuid(), id, types[k], split_part(types[k], '.', 1), id, '', '', '',
       '{"currency": "EUR", "total": 2500, "payment_token": "tok_approved", '
       '"customer": {"name": {"full": "Ada"}, "email": "ada@example.org"}, '
       '"lines": [{"sku": "TEA", "name": "Tea", "quantity": 2, "unit_price": 1250, "amount": 2500}], "ship_to": {'
       '"street": "Main Street 1", "city": "Bonn", "postal_code": "53111", "country": "DE"}}',
       started_at + after, started_at + after, started_at + after
FROM journal_flow, generate_series(1, 6) k, LATERAL (SELECT k * interval '1 second' AS after) later,
     (SELECT ARRAY['orders.order_placed.v2', 'payments.payment_authorized.v1',
     'shipping.shipment_dispatched.v1', 'payments.payment_captured.v1', 'shipping.shipment_delivered.v1',
     'orders.order_completed.v1'] AS types) all_types
"""
_OUTCOMES = """
INSERT INTO journal_outcome (key, flow, event_id, event_type, service, reaction, what, attempt, error, dead_letter, who,
                             started_at, ended_at, recorded_at)
SELECT gen_random_uuid(), flow, event_id::text, type, 'orders', 'orders.record_authorization', 'done', 1, '', '', '',
       announced_at, announced_at + interval '5 milliseconds', announced_at
FROM journal_entry
"""
_KEYWORDS = """
INSERT INTO journal_keyword (flow, word, is_personal)
SELECT id, 'customer' || right(id, 6) || '@example.org', true FROM journal_flow
UNION ALL SELECT id, 'pcl-' || right(id, 10), false FROM journal_flow
"""


def main() -> int:
    flows = int(os.environ.get("FLOWS", "1000000"))
    with tempfile.TemporaryDirectory(prefix="million-") as name, own_postgresql() as server:
        folder = Path(name)
        (folder / "var").mkdir()
        services = {"SHOP_SERVICES": "orders,payments,shipping,journal"}
        environment = clean_environment(folder) | {"DATABASE_URL": server.url} | services
        make_tables(environment, folder)
        begun = time.monotonic()
        for what, statement in (
            ("flows", _FLOWS.replace("FLOWS", str(flows))),
            ("events", _ENTRIES),
            ("outcomes", _OUTCOMES),
            ("keywords", _KEYWORDS),
        ):
            run_sql(server.url, statement)
            print(f"{time.monotonic() - begun:6.0f} s  {what} are there", file=sys.stderr, flush=True)
        run_sql(server.url, "VACUUM ANALYZE")
        result = subprocess.run(
            [sys.executable, "-m", "bench.million", "pages"], cwd=ROOT, env=environment, check=False
        )
    return result.returncode


def pages() -> int:
    """Ask for every page, and print what that took. Runs in a process with the settings of the database."""
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "shop.settings")
    import django

    django.setup()
    from django.contrib.auth.models import User
    from django.db import connections
    from django.test import Client
    from django.test.utils import CaptureQueriesContext

    from journal.models import Flow

    flows = Flow.objects.count()
    with connections["journal"].cursor() as cursor:
        cursor.execute(
            "SELECT sum(pg_total_relation_size(oid)) FROM pg_class WHERE relname LIKE 'journal\\_%' AND relkind = 'r'"
        )
        size = int(cursor.fetchone()[0])
    client = Client(headers={"host": "127.0.0.1"})
    client.force_login(User.objects.create_superuser("root", password=None))
    some = [*Flow.objects.order_by("id").values_list("id", "number")[:_TIMES]]
    asked: dict[str, list[str]] = {
        "a flow": [f"/flows/{flow}/" for flow, _ in some],
        "list": ["/flows/"] * _TIMES,
        "by number": [f"/flows/?list=1&q={number}" for _, number in some],
        "by e-mail": [f"/flows/?list=1&q=customer{flow[-6:]}@example.org" for flow, _ in some],
        "by parcel": [f"/flows/?list=1&q=PCL-{flow[-10:]}" for flow, _ in some],
        "running": ["/flows/?state=running"] * _TIMES,
        "overdue": ["/flows/?state=overdue"] * _TIMES,
        "parked": ["/flows/?state=parked"] * _TIMES,
        "person": ["/flows/?state=person"] * _TIMES,
        "ended": ["/flows/?state=ended"] * _TIMES,
        "by event type": ["/flows/?type=payments.payment_captured.v1"] * _TIMES,
        "by event type and state": ["/flows/?type=payments.payment_captured.v1&state=running"] * _TIMES,
        "by service": ["/flows/?service=shipping"] * _TIMES,
        "by time": ["/flows/?since=2020-01-01&until=2030-01-01"] * _TIMES,
        "the map": ["/"] * _TIMES,
    }
    rows: list[dict[str, Any]] = []
    for name, urls in asked.items():
        times, queries = [], 0
        for url in urls:
            with CaptureQueriesContext(connections["journal"]) as captured:
                begun = time.perf_counter()
                response = client.get(url)
                times.append((time.perf_counter() - begun) * 1000)
            assert response.status_code == 200, f"{url}: {response.status_code}"
            queries = max(queries, len(captured))
        p95 = statistics.quantiles(times, n=20)[-1]
        p50 = statistics.median(times)
        rows.append({"page": name, "p50_ms": round(p50, 1), "p95_ms": round(p95, 1), "queries": queries})
    print(json.dumps({"flows": flows, "bytes_per_flow": size // max(flows, 1), "pages": rows}, indent=2))
    late = [row for row in rows if row["p95_ms"] > ALLOWED_MS or row["queries"] > ALLOWED_QUERIES]
    for row in late:
        print(f"{row['page']} takes too much: {row}", file=sys.stderr)
    return 1 if late else 0


if __name__ == "__main__":
    sys.exit(pages() if sys.argv[1:] == ["pages"] else main())
