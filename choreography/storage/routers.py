"""One database alias per service: rows of app ``payments`` live where ``DATABASES["payments"]`` points."""

from typing import Any

from django.conf import settings
from django.db.models import Model


class ServiceRouter:
    """Sends each app to the alias of its own name, and every other app to ``default``."""

    def db_for_read(self, model: type[Model], **hints: Any) -> str:
        return home(model._meta.app_label)

    db_for_write = db_for_read

    def allow_relation(self, one: Model, other: Model, **hints: Any) -> bool:
        return home(one._meta.app_label) == home(other._meta.app_label)

    def allow_migrate(self, db: str, app_label: str, **hints: Any) -> bool:
        """An app's tables are made wherever its home is, by whichever alias leads there.

        Several aliases may lead to one database (``DATABASE_URL``). Django keeps one list of applied migrations in
        each database, so the first alias that arrives must make all the tables that belong there.
        """
        return place(db) == place(home(app_label))


def home(app_label: str) -> str:
    """The alias of an app."""
    return app_label if app_label in settings.DATABASES else "default"


def place(alias: str) -> tuple[Any, ...]:
    """The database an alias leads to; equal for two aliases of one database."""
    return tuple(settings.DATABASES[alias].get(key, "") for key in ("ENGINE", "HOST", "PORT", "NAME"))
