"""Each system check finds its fault, and says what to do about it."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack

import pytest
from django.apps import apps
from django.core.checks import CheckMessage, run_checks
from pytest_django.fixtures import Settings

from choreography.events import messages, timers
from choreography.events.messages import Announced
from choreography.events.timers import Timer
from choreography.testing import override


@pytest.fixture(autouse=True)
def without_journal() -> None:
    """What is registered is examined, and the timers of journal are."""


def found() -> dict[str, tuple[str, str]]:
    """Check id -> what it says and its remedy."""
    messages: Iterable[CheckMessage] = run_checks(tags=["choreography"])
    return {str(message.id): (message.msg, message.hint or "") for message in messages}


@pytest.fixture
def change() -> Iterator[Callable[..., object]]:
    """Change ``payments.capture_payment`` for one test."""

    with ExitStack() as stack:
        yield lambda **changes: stack.enter_context(override("payments.capture_payment", **changes))


def test_the_shop_itself_has_no_fault() -> None:
    assert found() == {}


def test_a_service_that_is_not_installed(settings: Settings) -> None:
    settings.CHOREOGRAPHY = settings.CHOREOGRAPHY | {"SERVICES": (*settings.SERVICES, "returns")}
    assert found() == {"choreography.E001": ("returns is a service but no installed app.", "Add it to INSTALLED_APPS.")}


def test_a_service_without_its_tables(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(apps.all_models["payments"], "inbox")
    message, remedy = found()["choreography.E002"]
    assert message == "payments has no Inbox."
    assert "payments/models.py" in remedy
    assert "makemigrations" in remedy


def test_a_reaction_outside_any_service(change: Callable[..., object]) -> None:
    change(service="treasury", announces=frozenset())
    message, remedy = found()["choreography.E003"]
    assert message == "treasury.capture_payment belongs to no service."
    assert "CHOREOGRAPHY['SERVICES']" in remedy


def audit() -> None: ...


def test_a_timer_outside_any_service(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(timers._timers, "x", Timer("treasury", audit, "AUDIT_SECONDS", lambda: 1))
    assert found()["choreography.E003"][0] == "treasury.audit belongs to no service."


def test_a_reaction_that_announces_another_services_fact(change: Callable[..., object]) -> None:
    change(announces=frozenset({"orders.order_completed.v1"}))
    message, remedy = found()["choreography.E004"]
    assert "capture_payment declares that it announces orders.order_completed.v1, a fact of another" in message
    assert "define an event of its own" in remedy


def test_a_reaction_to_what_nobody_announces(change: Callable[..., object]) -> None:
    change(event_types=("shipping.shipment_dispatched.v2",))
    message, remedy = found()["choreography.E005"]
    assert message == "payments.capture_payment reacts to shipping.shipment_dispatched.v2, which nobody announces."
    assert "version" in remedy


def test_a_foreign_publishers_event_may_be_reacted_to(change: Callable[..., object]) -> None:
    change(event_types=("warehouse.box_packed.v1",))
    assert found() == {}


def test_an_event_with_a_field_nobody_described(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(messages, "published", {})

    class BoxPacked(Announced, type="warehouse.box_packed.v1"):
        weight: int

    from choreography.operations import checks

    monkeypatch.setattr(checks, "published", messages.published)
    message, remedy = found()["choreography.E006"]
    assert message == "warehouse.box_packed.v1 does not describe weight."
    assert "Field(description=" in remedy


@pytest.mark.parametrize("rungs", [(), (5, 1), (1, 1, 5), (0, 1)])
def test_a_ladder_that_does_not_rise(settings: Settings, rungs: tuple[int, ...]) -> None:
    settings.CHOREOGRAPHY = settings.CHOREOGRAPHY | {"RETRY_RUNGS": rungs}
    message, remedy = found()["choreography.E007"]
    assert message == f"RETRY_RUNGS is {rungs}."
    assert "(1, 5, 30, 300)" in remedy


@pytest.mark.parametrize("url", ["redis://localhost", "localhost", "embedded://relative", "sqs://"])
def test_a_broker_on_which_delivery_is_not_proven(settings: Settings, url: str) -> None:
    settings.CHOREOGRAPHY = settings.CHOREOGRAPHY | {"BROKER_URL": url}
    message, remedy = found()["choreography.E008"]
    assert "amqp://" in message
    assert "RabbitMQ" in remedy


@pytest.mark.parametrize(
    ("path", "error"),
    [
        ("nowhere.Gateway", "ModuleNotFoundError: No module named 'nowhere'"),
        ("payments.sandbox.Nothing", "ImportError: "),
        ("Gateway", "ImportError: "),
    ],
)
def test_an_external_system_without_a_client(settings: Settings, path: str, error: str) -> None:
    settings.PAYMENT_GATEWAY = path
    message, remedy = found()["choreography.E013"]
    assert message.startswith(f"PAYMENT_GATEWAY is '{path}', which can't be imported: {error}")
    assert "package.module.Name" in remedy


@pytest.mark.parametrize("seconds", [0, -1, "soon", None])
def test_a_timer_without_an_interval(settings: Settings, seconds: object) -> None:
    settings.TRACK_PARCELS_SECONDS = seconds
    message, remedy = found()["choreography.E009"]
    assert message.startswith("shipping.track_parcels runs every TRACK_PARCELS_SECONDS seconds")
    assert remedy == "Set TRACK_PARCELS_SECONDS."


def test_a_timer_of_the_machinery_without_an_interval(settings: Settings) -> None:
    settings.CHOREOGRAPHY = settings.CHOREOGRAPHY | {"PURGE_SECONDS": 0}
    message, remedy = found()["choreography.E009"]
    assert "purge_old_events runs every CHOREOGRAPHY['PURGE_SECONDS'] seconds" in message
    assert remedy == "Set CHOREOGRAPHY['PURGE_SECONDS']."
