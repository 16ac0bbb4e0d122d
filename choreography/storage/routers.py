"""One database alias per service: rows of app ``payments`` live where ``DATABASES["payments"]`` points."""

from typing import Any

from django.conf import settings
from django.db.models import Model


class ServiceRouter:
    """Sends each app to the alias of its own name, and every other app to ``default``."""

    def db_for_read(self, model: type[Model], **hints: Any) -> str:
        return alias_of_app(model._meta.app_label)

    db_for_write = db_for_read

    def allow_relation(self, one: Model, other: Model, **hints: Any) -> bool:
        return alias_of_app(one._meta.app_label) == alias_of_app(other._meta.app_label)

    def allow_migrate(self, db: str, app_label: str, **hints: Any) -> bool:
        """An app's tables are created in its own database, by whichever alias leads there.

        Several aliases may lead to one database (``DATABASE_URL``). Django keeps one list of applied migrations in
        each database, so the first alias that arrives must create all the tables that belong there.
        """
        return _database_of(db) == _database_of(alias_of_app(app_label))


def alias_of_app(app_label: str) -> str:
    """The alias of an app."""
    return app_label if app_label in settings.DATABASES else "default"


def _database_of(alias: str) -> tuple[Any, ...]:
    """The database an alias leads to; equal for two aliases of one database."""
    return tuple(settings.DATABASES[alias].get(key, "") for key in ("ENGINE", "HOST", "PORT", "NAME"))
