"""Bulk statements: insert, update or lock many rows with one statement each, on PostgreSQL and SQLite alike.

For some hundreds of rows at a time, inside a transaction of the caller. Django's signals are sent as for ``save()``, so
that receivers learn of each row.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, TypeVar
from uuid import UUID

from django.db import connections
from django.db.models import CharField, Model, PositiveIntegerField, QuerySet, TextField, UUIDField
from django.db.models.signals import post_save, pre_save
from django.db.transaction import TransactionManagementError, atomic

from choreography.core.errors import Conflict

Row = TypeVar("Row", bound=Model)


def rows_locked(alias: str) -> AbstractContextManager[Any]:
    """A transaction where rows can be locked. SQLite would lock the whole file for as long as it takes."""
    if connections[alias].features.has_select_for_update_skip_locked:
        return atomic(using=alias)
    return nullcontext()


def locking_for_repeatable_work(select: str, alias: str) -> str:
    """A ``SELECT`` that locks its rows for work that is simply done again should its transaction be lost.

    On PostgreSQL it passes over rows that others have locked, and the commit does not wait for the disk, nor for a
    synchronous standby (https://www.postgresql.org/docs/current/wal-async-commit.html).
    """
    if not connections[alias].features.has_select_for_update_skip_locked:
        return select
    return f"SET LOCAL synchronous_commit TO off; {select} FOR UPDATE SKIP LOCKED"


def insert_all(rows: Sequence[Row], using: str) -> None:
    """Insert rows, and give each the primary key that the database chose.

    Raises:
        IntegrityError: one of them broke a constraint; none is there.
    """
    if rows:
        key = type(rows[0])._meta.pk
        for row, (value,) in zip(rows, _insert(rows, using, "", [key]), strict=True):
            setattr(row, key.attname, key.to_python(value))
        _send_saved(rows, using, created=True)


def insert_new(rows: Sequence[Row], by: Sequence[str], using: str) -> list[Row]:
    """Insert the rows that are not there yet.

    A row that another transaction is inserting is waited for. To avoid deadlocks, give the rows in a fixed order.

    Args:
        rows: all of one model.
        by: the fields by which to recognise a row. A unique constraint of exactly these must exist.
        using: the alias of the database.

    Returns:
        Those that were inserted, in the order given. Of two that are the same the first.

    Raises:
        IntegrityError: one of them broke another constraint; none is there.
    """
    if not rows:
        return []
    connection, meta = connections[using], type(rows[0])._meta
    fields: list[Any] = [meta.get_field(name) for name in by]
    columns = ", ".join(f'"{field.column}"' for field in fields)
    found = _insert(rows, using, f" ON CONFLICT ({columns}) DO NOTHING", [*fields, meta.pk])
    keys = {tuple(values): key for *values, key in found}
    inserted = []
    for row in rows:
        key = keys.pop(tuple(_prepared([row], fields, connection)), None)
        if key is not None:
            row.pk = meta.pk.to_python(key)
            inserted.append(row)
    _send_saved(inserted, using, created=True)
    return inserted


def update_rows(rows: Sequence[Model], names: Iterable[str], using: str) -> None:
    """Write the fields called ``names`` of many rows, each row with values of its own.

    Raises:
        IntegrityError: one of them broke a constraint; none was changed.
    """
    names = list(names)
    if not rows or not names:
        return
    connection, meta = connections[using], type(rows[0])._meta
    fields: list[Any] = [meta.pk, *(meta.get_field(name) for name in names)]
    _send_saving(rows, using, names)
    # The columns of VALUES have these names, and take PostgreSQL's type from the values: NULL alone has none.
    given = [
        f"column{number}::{field.db_type(connection)}" if connection.vendor == "postgresql" else f"column{number}"
        for number, field in enumerate(fields, 1)
    ]
    changes = ", ".join(f'"{field.column}" = {value}' for field, value in zip(fields[1:], given[1:], strict=True))
    with connection.cursor() as cursor:
        cursor.execute(
            f'UPDATE "{meta.db_table}" SET {changes} FROM ({_values(len(rows), len(fields))}) given'  # noqa: S608
            f' WHERE "{meta.db_table}"."{meta.pk.column}" = {given[0]}',
            _prepared(rows, fields, connection),
        )
    _send_saved(rows, using, created=False, names=names)


def find(queryset: QuerySet[Row], keys: Iterable[Any], *, lock: bool = False) -> dict[Any, Row]:
    """The rows that have these primary keys, by key; with ``lock``, locked until the transaction ends.

    Written by hand because the ORM takes longer to compile this statement than the database to run it.
    """
    model, connection = queryset.model, connections[queryset.db]
    fields, key = model._meta.concrete_fields, model._meta.pk
    prepared = [key.get_db_prep_value(each, connection) for each in keys]
    if not prepared:
        return {}
    columns = ", ".join(f'"{field.column}"' for field in fields)
    places = ", ".join(["%s"] * len(prepared))
    # Always in the order of the keys, so that two transactions that lock the same rows do not deadlock.
    for_update = " FOR UPDATE" if lock and connection.features.has_select_for_update else ""
    with connection.cursor() as cursor:
        cursor.execute(
            f'SELECT {columns} FROM "{model._meta.db_table}" WHERE "{key.column}" IN ({places})'  # noqa: S608
            f' ORDER BY "{key.column}"{for_update}',
            prepared,
        )
        records = cursor.fetchall()
    convert = _converter(fields, connection)
    rows = [model.from_db(queryset.db, [field.attname for field in fields], convert(record)) for record in records]
    return {row.pk: row for row in rows}


@contextmanager
def locked(
    queryset: QuerySet[Row], keys: Iterable[Any], missing: Callable[[Any], Row] | None = None
) -> Iterator[list[Row]]:
    """Lock rows until the transaction ends, and write what the block has changed about them.

    Rows that were not changed are not written, and of the others only the changed columns.

    Args:
        queryset: where to look.
        keys: the primary keys of the rows.
        missing: gives the row for a key that has none, or raises an error. Default: a blank row.

    Yields:
        A row for each key, in the order given.

    Raises:
        Conflict: another transaction has created a row that was missing.
        IntegrityError: a change breaks a constraint.
    """
    model, using = queryset.model, queryset.db
    if not connections[using].in_atomic_block:
        raise TransactionManagementError("rows can only be locked inside a transaction")
    keys, make = list(keys), missing or (lambda key: model(pk=key))
    found = find(queryset, keys, lock=True)
    rows = {key: found.get(key) or make(key) for key in keys}
    before = [vars(row).copy() for row in rows.values()]

    yield [rows[key] for key in keys]

    changed = [(row, old) for row, old in zip(rows.values(), before, strict=True) if vars(row) != old]
    known = [(row, old) for row, old in changed if not row._state.adding]
    names = [
        field.name
        for field in model._meta.concrete_fields
        if not field.generated and any(vars(row).get(field.attname) != old.get(field.attname) for row, old in known)
    ]
    update_rows([row for row, _ in known], names, using)
    new = sorted((row for row, _ in changed if row._state.adding), key=lambda row: row.pk)
    if len(insert_new(new, [model._meta.pk.name], using)) < len(new):
        raise Conflict(f"another transaction has created a row of {model._meta.label}")


def _converter(fields: Sequence[Any], connection: Any) -> Callable[[Sequence[Any]], Sequence[Any]]:
    """What makes Python's values of a record. PostgreSQL's driver has made nearly all of them itself."""
    needed = {}
    for place, field in enumerate(fields):
        steps = [*connection.ops.get_db_converters(field.cached_col), *field.get_db_converters(connection)]
        if steps:
            needed[place] = (field.cached_col, steps)

    def convert(record: Sequence[Any]) -> Sequence[Any]:
        values = list(record)
        for place, (column, steps) in needed.items():
            for step in steps:
                values[place] = step(values[place], column, connection)
        return values

    return convert


def _insert(rows: Sequence[Model], using: str, conflict: str, returning: Iterable[Any]) -> list[Any]:
    connection, meta = connections[using], type(rows[0])._meta
    fields = [
        field
        for field in meta.concrete_fields
        if not field.generated and not (field is meta.auto_field and rows[0].pk is None)
    ]
    columns = ", ".join(f'"{field.column}"' for field in fields)
    returned = ", ".join(f'"{field.column}"' for field in returning)
    _send_saving(rows, using, None)
    with connection.cursor() as cursor:
        cursor.execute(
            f'INSERT INTO "{meta.db_table}" ({columns}) {_values(len(rows), len(fields))}{conflict}'
            f" RETURNING {returned}",
            _prepared(rows, fields, connection),
        )
        return list(cursor.fetchall())


def _values(rows: int, columns: int) -> str:
    one = f"({', '.join(['%s'] * columns)})"
    return f"VALUES {', '.join([one] * rows)}"


def _prepared(rows: Iterable[Model], fields: Iterable[Any], connection: Any) -> list[Any]:
    """The values of these fields as the driver takes them, row after row."""
    columns = [(field.attname, _as_it_is(field, connection), field.get_db_prep_save) for field in fields]
    values = []
    for row in rows:
        for name, kind, prepare in columns:
            value = getattr(row, name)
            values.append(value if type(value) is kind else prepare(value, connection))
    return values


def _as_it_is(field: Any, connection: Any) -> type | None:
    """Of which type a value needs no preparing: asking Django's fields takes longer than all the rest of a row."""
    if type(field) is UUIDField and not connection.features.has_native_uuid_field:
        return None
    return _TYPES.get(type(field))


_TYPES: dict[type[Any], type] = {CharField: str, TextField: str, PositiveIntegerField: int, UUIDField: UUID}


def _send_saving(rows: Sequence[Model], using: str, names: Iterable[str] | None) -> None:
    model = type(rows[0])
    if pre_save.has_listeners(model):
        for row in rows:
            pre_save.send(sender=model, instance=row, raw=False, using=using, update_fields=names)


def _send_saved(rows: Sequence[Model], using: str, *, created: bool, names: Iterable[str] | None = None) -> None:
    for row in rows:
        row._state.adding, row._state.db = False, using
    if rows and post_save.has_listeners(model := type(rows[0])):
        for row in rows:
            post_save.send(sender=model, instance=row, created=created, raw=False, using=using, update_fields=names)
