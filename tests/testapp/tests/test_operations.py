"""What people use to run a project: dead letters, admin pages, checks, map, contracts, the Celery app, the relay."""

import io
from pathlib import Path
from typing import Any

import pytest
from celery import Celery
from django.contrib.auth.models import User
from django.core.management import CommandError, call_command
from django.test import Client, modify_settings
from kombu import Connection

from choreography.broker import topology
from choreography.broker.publisher import BrokerPublisher, connect
from choreography.core.conf import conf
from choreography.dead_letters import actions
from choreography.dead_letters.actions import By
from choreography.dead_letters.dry_runs import dry_run
from choreography.events.timers import timers
from choreography.outbox import relay
from choreography.storage.models import DeadLetter, DeadLetterAction
from choreography.storage.tables import ServiceTables
from choreography.testing import Choreography
from choreography.worker import setup
from tests.testapp.services.billing.models import Bill
from tests.testapp.services.billing.printer import FakePrinter
from tests.testapp.services.kitchen import services as kitchen


def run(*arguments: str) -> str:
    """The output of a management command."""
    output = io.StringIO()
    call_command(*arguments, stdout=output)
    return output.getvalue()


@pytest.fixture
def dead_letter(choreography: Choreography, printer: type[FakePrinter]) -> DeadLetter:
    """A dish that billing could not bill because of a bug in the printer's client. The bug is fixed since."""
    printer.has_bug = True
    kitchen.cook("table 7", "soup", 850)
    choreography.settle()
    printer.has_bug = False
    return ServiceTables("billing").dead_letters.get()


def test_a_bug_is_parked_and_takes_effect_when_sent_again(choreography: Choreography, dead_letter: DeadLetter) -> None:
    assert (dead_letter.subject, dead_letter.error) == ("table 7", "ZeroDivisionError")

    actions.send_again(dead_letter, choreography)
    choreography.settle()

    dead_letter.refresh_from_db()
    assert dead_letter.state == DeadLetter.State.RESOLVED
    assert Bill.objects.get().total == 850


def test_the_location_of_an_error_is_the_function_of_the_service(dead_letter: DeadLetter) -> None:
    assert dead_letter.location == "tests.testapp.services.billing.printer:print_line"


def test_a_dry_run_calls_no_external_system(dead_letter: DeadLetter, printer: type[FakePrinter]) -> None:
    printed = list(printer.lines)

    found = dry_run(dead_letter, By("test"))

    assert found.outcome == DeadLetterAction.Outcome.WOULD_CALL
    assert found.calls == {
        "system": "receipt printer",
        "method": "print_line",
        "arguments": {"table": "table 7", "dish": "soup", "price": 850},
    }
    assert printer.lines == printed


def test_the_admin_shows_the_tables_of_every_service(dead_letter: DeadLetter, client: Client) -> None:
    client.force_login(User.objects.create_superuser("cook", password="cook"))

    for service in ("kitchen", "billing"):
        for table in ("outbox", "inbox", "deadletter"):
            assert client.get(f"/admin/{service}/{table}/").status_code == 200
    page = client.get(f"/admin/billing/deadletter/{dead_letter.pk}/change/")
    assert page.status_code == 200
    assert "table 7" in page.content.decode()


def test_the_checks_pass() -> None:
    run("check", "--fail-level", "WARNING")


def test_the_map_shows_the_cards_of_nested_packages() -> None:
    page = run("choreography", "map")

    assert "Kitchen: what was cooked for a table" in page
    assert 'kitchen -- "dish_cooked" --> billing' in page


def test_contracts_are_written_and_kept() -> None:
    with pytest.raises(CommandError, match=r"kitchen\.dish_cooked\.v1 has no committed contract"):
        run("choreography", "contracts")

    run("choreography", "contracts", "--write")

    assert {path.stem for path in conf().contracts_dir.iterdir()} == {
        "kitchen.dish_cooked.v1",
        "billing.bill_printed.v1",
        "readers",
        "examples",
    }
    run("choreography", "contracts")


def test_a_celery_app_gets_a_task_per_reaction_and_a_queue_per_service() -> None:
    app = Celery("testapp", set_as_current=False)

    setup.install(app)

    assert {"kitchen.record_bill", "billing.write_bill", "billing.forget_empty_bills"} <= app.tasks.keys()
    assert {"kitchen", "billing"} <= {queue.alias or queue.name for queue in app.conf.task_queues}
    assert app.conf.beat_schedule["billing.forget_empty_bills"]["schedule"] == 5.0


def test_the_relay_publishes_to_the_embedded_broker(db: None, data_dir: Path) -> None:
    run("declare_topology")
    kitchen.cook("table 7", "soup", 850)

    publisher = BrokerPublisher()
    try:
        assert relay.publish_waiting("kitchen", publisher) == 1
    finally:
        publisher.close()

    assert (data_dir / "broker.sqlite3").exists()
    with connect() as connection:
        assert _size(connection, topology.queue_name("billing")) == 1


def _size(connection: Connection, queue: str) -> int:
    channel: Any
    with connection.channel() as channel:
        return int(channel.queue_declare(queue, passive=True).message_count)


def test_loading_the_apps_again_registers_nothing_twice() -> None:
    before = [timer.name for timer in timers()]

    with modify_settings(INSTALLED_APPS={"remove": "django.contrib.messages"}):
        assert [timer.name for timer in timers()] == before
