"""A command that needs the tables of the services."""

from typing import Any

from django.core.management.base import BaseCommand, CommandError
from django.db import DatabaseError, InterfaceError

from choreography.core.classification import is_database_down
from choreography.core.conf import conf
from choreography.core.errors import one_line
from choreography.storage.migrations import Unmigrated, refuse_unmigrated


class DatabaseCommand(BaseCommand):
    """Says in one line that a database can't be reached or lacks migrations, and what to do."""

    def execute(self, *args: Any, **options: Any) -> str | None:
        try:
            return super().execute(*args, **options)
        except (DatabaseError, InterfaceError) as error:
            if not is_database_down(error):
                raise
            try:
                refuse_unmigrated(conf().services)
            except Unmigrated as missing:
                raise CommandError(str(missing)) from error
            raise CommandError(
                f"A database can't be reached: {one_line(error)}. Start it, or check its DATABASE_URL."
            ) from error
