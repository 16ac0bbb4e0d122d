"""A process whose database lacks migrations does not begin to work."""

import pytest
from django.core.management import CommandError, call_command
from django.db import OperationalError, connections
from django.db.migrations.executor import MigrationExecutor
from django.db.migrations.recorder import MigrationRecorder

from choreography.storage.migrations import Unmigrated, refuse_unmigrated

pytestmark = pytest.mark.django_db(databases="__all__")


def take_back(alias: str, app: str) -> None:
    MigrationRecorder(connections[alias]).record_unapplied(app, "0001_initial")


def test_nothing_is_missing_from_a_migrated_database() -> None:
    refuse_unmigrated()
    refuse_unmigrated(["payments"])


def test_what_is_missing_is_named_with_the_command() -> None:
    take_back("payments", "payments")

    with pytest.raises(
        Unmigrated, match=r"payments\.0001_initial\. Run manage\.py migrate --database payments, then try"
    ):
        refuse_unmigrated()


def test_of_an_app_that_lacks_many_the_first_is_named_and_the_others_are_counted() -> None:
    MigrationRecorder(connections["default"]).migration_qs.filter(app="sessions").delete()
    MigrationRecorder(connections["default"]).migration_qs.filter(app="auth", name__gte="0011").delete()

    with pytest.raises(
        Unmigrated, match=r"auth\.0011_update_proxy_permissions and 1 more, sessions\.0001_initial\. Run"
    ):
        refuse_unmigrated()


def test_another_service_is_not_concerned() -> None:
    take_back("payments", "payments")

    refuse_unmigrated(["orders", "shipping"])


def test_migrations_of_apps_that_have_no_tables_there_are_not_missed() -> None:
    take_back("payments", "orders")

    refuse_unmigrated()


def test_a_database_that_is_down_is_waited_for_by_the_process_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    def down(*_: object) -> None:
        raise OperationalError("could not connect to server")

    monkeypatch.setattr(MigrationExecutor, "__init__", down)

    refuse_unmigrated()


def test_a_relay_refuses_to_start() -> None:
    take_back("payments", "payments")

    with pytest.raises(CommandError, match=r"manage\.py migrate --database payments"):
        call_command("relay", "payments")
