"""Which migrations are still to be applied: code that runs before them would fail with every event."""

from collections.abc import Collection, Iterator, Sequence

from django.apps import apps
from django.db import DatabaseError, connections, router
from django.db.migrations import Migration
from django.db.migrations.executor import MigrationExecutor

from choreography.storage.tables import ServiceTables


class Unmigrated(Exception):
    """Migrations are missing. Its text names them and the command."""

    def __init__(self, names: str, command: str) -> None:
        super().__init__(f"The database lacks migrations: {names}. Run {command}, then try again.")
        self.names = names
        self.command = command


def refuse_unmigrated(services: Collection[str] | None = None) -> None:
    """Check that every migration is applied, before a process begins its work.

    A database that can't be reached is not looked at: the process waits for it, as in any outage.

    Args:
        services: whose tables to check; by default those of every app.

    Raises:
        Unmigrated: some are missing.
    """
    aliases = set(connections) if services is None else {ServiceTables(service).alias for service in services}
    labels = {app.label for app in apps.get_app_configs()} if services is None else set(services)
    missing = [(alias, each) for alias in sorted(aliases) for each in _pending(alias, labels)]
    if missing:
        command = "; ".join(
            f"manage.py migrate --database {alias}" for alias in sorted({alias for alias, _ in missing})
        )
        raise Unmigrated(_named([migration for _, migration in missing]), command)


def _named(missing: Sequence[Migration]) -> str:
    """The first of each app, and how many more it has: a new database lacks dozens."""
    of_app: dict[str, dict[str, None]] = {}
    for migration in missing:
        of_app.setdefault(migration.app_label, {})[migration.name] = None
    return ", ".join(
        f"{app}.{next(iter(names))}" + (f" and {len(names) - 1} more" if len(names) > 1 else "")
        for app, names in sorted(of_app.items())
    )


def _pending(alias: str, labels: Collection[str]) -> Iterator[Migration]:
    try:
        executor = MigrationExecutor(connections[alias])
        plan = executor.migration_plan(executor.loader.graph.leaf_nodes())
    except DatabaseError:
        return
    for migration, _ in plan:
        if migration.app_label in labels and router.allow_migrate(alias, migration.app_label):
            yield migration
