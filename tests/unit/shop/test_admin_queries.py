"""No page of the admin asks the database more often because there is more to show, nor sorts a whole table.

Pages are found from what is registered and rows are made up from the models, so that a new page is covered by itself.
"""

from collections.abc import Iterator
from itertools import count
from typing import Any
from uuid import UUID, uuid4

import pytest
from django.apps import apps
from django.contrib import admin
from django.contrib.admin.models import LogEntry
from django.contrib.admin.utils import quote
from django.contrib.auth.models import Permission, User
from django.contrib.contenttypes.models import ContentType
from django.db import connections, models
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.urls import reverse

from choreography.admin.dead_letters import DeadLetterAdmin
from choreography.admin.tables import EventAdmin, ReadOnlyAdmin
from choreography.core import clock
from choreography.storage.models import Redrive
from choreography.storage.routers import alias_of_app
from common.orders import OrderKeyedAdmin
from orders.models import Order
from payments.models import Outbox
from shop.flows import Step, lines
from tests.unit.orders.admin_pages import queries

pytestmark = pytest.mark.django_db(databases="__all__")

OUTBOX = "/admin/payments/outbox/"

_numbers = count(10**6)


@pytest.fixture
def root(client: Client) -> Client:
    """Someone who may do everything."""
    client.force_login(User.objects.create_superuser("root"))
    return client


def registered(kind: type[Any], *but_not: type[Any]) -> list[Any]:
    """The admin's parts of this kind, as parameters named after their models."""
    parts = [part for part in admin.site._registry.values() if isinstance(part, kind) and not isinstance(part, but_not)]
    assert parts
    return [pytest.param(part, id=part.opts.label) for part in parts]


# Rows


def a_row(model: type[models.Model], about: models.Model | None = None) -> models.Model:
    """A row made up from the model's fields, about ``about`` where it can be: by key, subject or fingerprint."""
    row = model()
    for field in model._meta.concrete_fields:
        value = _value(field, about)
        if value is not None:
            setattr(row, field.name, value)
    if isinstance(row, Redrive):
        row.state = Redrive.State.DONE  # only one of a group may run
    row.save(force_insert=True)
    return row


def _value(field: Any, about: models.Model | None) -> Any:
    """``None``: as it is, empty or by default."""
    match field:
        case models.ForeignKey(related_model=other):
            if other is ContentType:
                return ContentType.objects.get_for_model(about or User)
            return about if isinstance(about, other) else a_row(other)
        case models.Field(name="object_id"):
            return str(about.pk) if about else None
        case models.Field(name="subject", unique=False) if about and isinstance(about.pk, UUID):
            return str(about.pk)
        case models.Field(name="sequence"):
            return next(_numbers)
        case models.Field(name="fingerprint"):
            return getattr(about, "fingerprint", None) or str(next(_numbers))
        case models.Field(name="currency"):
            return "EUR"
        case models.AutoField() | models.GeneratedField():
            return None
        case models.Field(name="subject"):
            return str(uuid4())
        case models.Field() if field.has_default() or field.null:
            return None
        case models.UUIDField():
            return uuid4()
        case models.CharField() if field.choices:
            return field.choices[0][0]
        case models.CharField() if field.unique or not field.blank:
            return str(next(_numbers))[-(field.max_length or 0) :]
        case models.DateTimeField():
            return clock.now()
        case models.IntegerField() | models.FloatField():
            return 1
        case models.BinaryField():
            return b"{}"
    return None


def grow(about: models.Model, rows: int) -> None:
    """So many more rows about it, and as many about something else, in every table that may have to do with it."""
    for model in apps.get_models():
        if model is LogEntry or (model._meta.app_label == about._meta.app_label and model is not Permission):
            for number in range(2 * rows):
                a_row(model, about if number % 2 else None)


# Pages


def pages(part: Any, row: models.Model) -> Iterator[str]:
    """Every address of a part of the admin; those about one row are about ``row``."""
    known = {"object_id": quote(row.pk), "id": quote(row.pk), "fingerprint": getattr(row, "fingerprint", "")}
    for pattern in part.get_urls():
        if pattern.name:
            yield reverse(f"admin:{pattern.name}", kwargs={name: known[name] for name in pattern.pattern.converters})


@pytest.mark.parametrize("part", registered(admin.ModelAdmin))
def test_no_page_takes_more_queries_for_many_rows_than_for_few(root: Client, part: Any) -> None:
    row = a_row(part.model)
    grow(row, 2)
    shown = [page for page in pages(part, row) if root.get(page).status_code == 200]
    for_few = {page: queries(root, page) for page in shown}
    grow(row, 10)

    assert {page: queries(root, page) for page in shown} == for_few
    opts = part.opts
    assert reverse(f"admin:{opts.app_label}_{opts.model_name}_changelist") in shown
    assert reverse(f"admin:{opts.app_label}_{opts.model_name}_change", args=[quote(row.pk)]) in shown


def test_nor_does_the_home_page(root: Client) -> None:
    for_few = queries(root, "/")
    for part in admin.site._registry.values():
        if isinstance(part, DeadLetterAdmin):
            grow(a_row(part.model), 5)

    assert queries(root, "/") == for_few


# What is looked at


def plans(client: Client, part: Any, query: str = "") -> list[tuple[str, str]]:
    """Each question a list asks its service's database, and how SQLite answers it."""
    url = reverse(f"admin:{part.opts.app_label}_{part.opts.model_name}_changelist")
    connection = connections[alias_of_app(part.opts.app_label)]
    with CaptureQueriesContext(connection) as captured:
        assert client.get(f"{url}?{query}").status_code == 200
    with connection.cursor() as cursor:
        asked = [each["sql"] for each in captured.captured_queries if each["sql"].startswith("SELECT")]
        return [(sql, "\n".join(str(row[3]) for row in cursor.execute(f"EXPLAIN QUERY PLAN {sql}"))) for sql in asked]


def listed(client: Client, query: str = "") -> list[Any]:
    """What the list of payments' announced events has."""
    return list(client.get(f"{OUTBOX}?{query}").context["cl"].result_list)


def searches(plan: str) -> bool:
    """Whether rows are found by an index, and not by going through all of them."""
    return not any(line.startswith("SCAN") and "subquery" not in line for line in plan.splitlines())


#: Dead letters are few: they are what a person must look at.
LARGE = registered(ReadOnlyAdmin, DeadLetterAdmin)


@pytest.mark.parametrize("part", LARGE)
def test_a_large_table_is_listed_in_the_order_of_an_index(root: Client, part: Any) -> None:
    grow(a_row(part.model), 2)

    for sql, plan in plans(root, part):
        assert "TEMP B-TREE" not in plan, sql


@pytest.mark.parametrize("part", LARGE)
def test_a_large_table_is_counted_once_at_most(root: Client, part: Any) -> None:
    grow(a_row(part.model), 2)

    assert sum("COUNT(" in sql for sql, _ in plans(root, part)) <= 1


@pytest.mark.parametrize("part", [*registered(EventAdmin), *registered(OrderKeyedAdmin)])
def test_a_whole_id_is_found_by_an_index(root: Client, part: Any) -> None:
    row: Any = a_row(part.model)
    grow(row, 2)
    column = "pk" if isinstance(part, OrderKeyedAdmin) else "event_id"
    asked = [(sql, plan) for sql, plan in plans(root, part, f"q={row.serializable_value(column)}") if "WHERE" in sql]

    assert asked
    for sql, plan in asked:
        assert searches(plan), (sql, plan)


def test_an_event_is_found_by_its_id_and_by_its_subject_and_by_nothing_else(root: Client) -> None:
    wanted, other = (
        Outbox.objects.create(event_id=uuid4(), event_type="x", subject=str(uuid4()), sequence=1) for _ in "ab"
    )

    assert listed(root) == [other, wanted]
    assert listed(root, f"q={wanted.event_id}") == listed(root, f"q={UUID(wanted.subject).hex}") == [wanted]
    assert listed(root, "q=x") == []


def test_a_filter_offers_the_values_of_the_newest_rows(root: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("choreography.admin.tables.LISTED", 3)
    for event_type in ("oldest", "b", "a", "b"):
        Outbox.objects.create(event_id=uuid4(), event_type=event_type, subject=str(uuid4()), sequence=1)

    (by_type,) = [spec for spec in root.get(OUTBOX).context["cl"].filter_specs if spec.title == "event type"]

    assert list(by_type.lookup_choices) == ["a", "b"]
    assert [row.event_type for row in listed(root, "event_type=b")] == ["b", "b"]


@pytest.mark.parametrize(("rows", "told"), [(3, False), (5, True)])
def test_a_list_says_that_it_does_not_have_all(
    root: Client, monkeypatch: pytest.MonkeyPatch, rows: int, told: bool
) -> None:
    monkeypatch.setattr("choreography.admin.tables.LISTED", 4)
    for _ in range(rows):
        a_row(Outbox)

    page = root.get(OUTBOX).content.decode()

    assert ("Only the first 4 are listed." in page) is told


def test_what_happened_to_many_orders_is_told_with_one_query(django_assert_num_queries: Any) -> None:
    steps = [Step(clock.now(), "orders", a_row(Order).pk, "orders.order_placed.v2") for _ in range(5)]

    with django_assert_num_queries(1, using="orders"):
        assert len(list(lines(steps))) == 5
