"""Have PostgreSQL vacuum the large tables of a service in small steps.

By default it vacuums when a fifth of a table is dead, and analyzes when a tenth has changed: with tens of millions of
rows that is millions of dead ones in the way, and a vacuum that takes an hour.
"""

from typing import Any

from django.db import connections

from choreography.core.conf import conf
from choreography.storage.tables import ServiceTables

_STEPS = {
    "autovacuum_vacuum_scale_factor": "0.02",
    "autovacuum_vacuum_insert_scale_factor": "0.05",
    "autovacuum_analyze_scale_factor": "0.02",
}


def configure_vacuum(app_config: Any, using: str, **kwargs: Any) -> None:
    """A receiver of ``post_migrate``. Changes nothing where it is set already."""
    tables = ServiceTables(app_config.label)
    if app_config.label not in conf().services or tables.alias != using or connections[using].vendor != "postgresql":
        return
    options = ", ".join(f"{name} = {value}" for name, value in _STEPS.items())
    with connections[using].cursor() as cursor:
        for model in (tables.outbox.model, tables.inbox.model):
            table = model._meta.db_table
            cursor.execute("SELECT reloptions FROM pg_class WHERE oid = to_regclass(%s)", [f'"{table}"'])
            found = cursor.fetchone()
            if found is not None and set(found[0] or ()) != {f"{name}={value}" for name, value in _STEPS.items()}:
                cursor.execute(f'ALTER TABLE "{table}" SET ({options})')
