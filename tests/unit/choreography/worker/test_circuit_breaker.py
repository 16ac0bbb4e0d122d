"""A circuit opens only when its probe fails, and closes when the probe succeeds."""

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest
from django.db import OperationalError, connections
from pytest_django.fixtures import Settings

from choreography.core.errors import Outage
from choreography.events.external_systems import ExternalSystem
from choreography.events.registry import reactions
from choreography.inbox.deliveries import DATABASE
from choreography.storage.tables import ServiceTables
from choreography.testing import override
from choreography.worker import circuit_breaker
from choreography.worker.circuit_breaker import Circuit, CircuitBreakers
from tests.processes import eventually

GATEWAY = "payment gateway"


class Listener:
    """Records what it hears."""

    def __init__(self) -> None:
        self.told: list[tuple[str, str]] = []

    def opened(self, circuit: Circuit, error: str) -> None:
        self.told.append(("opened", f"{circuit.name}: {error}"))

    def still_open(self, circuit: Circuit, error: str) -> None:
        self.told.append(("still open", f"{circuit.name}: {error}"))

    def closed(self, circuit: Circuit, seconds: float) -> None:
        assert seconds >= 0
        self.told.append(("closed", circuit.name))

    @property
    def words(self) -> list[str]:
        return [word for word, _ in self.told]


@pytest.fixture
def listener() -> Listener:
    return Listener()


@pytest.fixture
def breakers(listener: Listener, monkeypatch: pytest.MonkeyPatch) -> Iterator[CircuitBreakers]:
    monkeypatch.setattr(circuit_breaker, "_FIRST_PAUSE", 0.01)
    breakers = CircuitBreakers(listener)
    yield breakers
    breakers.stop()
    eventually(lambda: not [each for each in threading.enumerate() if ".wait_for_" in each.name], within=10)


@pytest.fixture
def answers() -> Iterator[Callable[[list[Exception | None]], None]]:
    """Set how the payment gateway's probes end, one after the other; the last for ever."""

    def set_answers(answers: list[Exception | None]) -> None:
        def probe(client: Any) -> None:
            answer = answers.pop(0) if len(answers) > 1 else answers[0]
            if answer:
                raise answer

        system: ExternalSystem[Any] = ExternalSystem(GATEWAY, "PAYMENT_GATEWAY", reads=(), probe=probe)
        for reaction in reactions("payments"):
            changes.enter_context(override(reaction.name, external_system=system))

    with ExitStack() as changes:
        yield set_answers


Answers = Callable[[list[Exception | None]], None]


def is_idle(breakers: CircuitBreakers) -> bool:
    return not breakers._watched


def test_nothing_opens_where_the_external_system_answers(
    breakers: CircuitBreakers, listener: Listener, answers: Answers
) -> None:
    answers([None])
    breakers.suspect("payments", GATEWAY)
    eventually(lambda: is_idle(breakers))
    assert listener.told == []


def test_a_circuit_opens_probes_and_closes(breakers: CircuitBreakers, listener: Listener, answers: Answers) -> None:
    answers([Outage("down"), Outage("down"), Outage("down"), None])
    breakers.suspect("payments", GATEWAY)
    eventually(lambda: "closed" in listener.words)
    assert listener.words == ["opened", "still open", "still open", "closed"]
    assert listener.told[0] == ("opened", "payments.wait_for_payment_gateway: Outage: down")
    assert breakers.open == frozenset()


@pytest.mark.django_db(databases="__all__", transaction=True)
def test_who_follows_flows_is_told_of_a_pause_until_it_is_over(
    breakers: CircuitBreakers, listener: Listener, answers: Answers, settings: Settings
) -> None:
    settings.CHOREOGRAPHY = settings.CHOREOGRAPHY | {"REPORTS": ("payments",)}
    answers([Outage("down"), Outage("down"), None])

    breakers.suspect("payments", GATEWAY)
    eventually(lambda: "closed" in listener.words and is_idle(breakers))

    told = [json.loads(row.body) for row in ServiceTables("payments").reports.order_by("position")]
    assert [(each["dependency"], each["error"], each["is_over"]) for each in told] == [
        (GATEWAY, "Outage: down", False),
        (GATEWAY, "Outage: down", False),
        (GATEWAY, "", True),
    ]
    assert len({each["since"] for each in told}) == 1


def test_an_open_circuit_is_known_and_opens_once(
    breakers: CircuitBreakers, listener: Listener, answers: Answers
) -> None:
    answers([Outage("down")])
    for _ in range(10):
        breakers.suspect("payments", GATEWAY)
    eventually(lambda: "still open" in listener.words)
    breakers.suspect("payments", GATEWAY)
    assert breakers.open == {Circuit("payments", GATEWAY)}
    assert listener.words.count("opened") == 1


def test_a_circuit_opens_again_the_next_time(breakers: CircuitBreakers, listener: Listener, answers: Answers) -> None:
    for _ in range(2):
        answers([Outage("down"), None])
        breakers.suspect("payments", GATEWAY)
        eventually(lambda: is_idle(breakers))
    assert listener.words == ["opened", "closed"] * 2


def test_a_probe_that_is_broken_itself_holds_nobody_back(
    breakers: CircuitBreakers, listener: Listener, answers: Answers
) -> None:
    answers([ZeroDivisionError()])
    breakers.suspect("payments", GATEWAY)
    eventually(lambda: is_idle(breakers))
    assert listener.told == []

    answers([Outage("down"), ZeroDivisionError()])
    breakers.suspect("payments", GATEWAY)
    eventually(lambda: "closed" in listener.words)


def test_what_others_say_of_their_errors_is_not_told(
    breakers: CircuitBreakers, listener: Listener, answers: Answers
) -> None:
    answers([OperationalError("host 10.0.0.7, user ada"), None])
    breakers.suspect("payments", GATEWAY)
    eventually(lambda: "closed" in listener.words)
    assert listener.told[0] == ("opened", "payments.wait_for_payment_gateway: OperationalError")


def test_an_open_circuit_ends_with_its_worker(breakers: CircuitBreakers, listener: Listener, answers: Answers) -> None:
    answers([Outage("down")])
    breakers.suspect("payments", GATEWAY)
    eventually(lambda: "opened" in listener.words)
    breakers.stop()
    eventually(lambda: is_idle(breakers), within=10)
    assert "closed" not in listener.words

    breakers.suspect("payments", GATEWAY)
    assert is_idle(breakers)


@pytest.mark.django_db(databases="__all__", transaction=True)
def test_a_database_that_answers_is_not_down(breakers: CircuitBreakers, listener: Listener) -> None:
    breakers.suspect("payments", DATABASE)
    eventually(lambda: is_idle(breakers))
    assert listener.told == []


@pytest.mark.django_db(databases="__all__", transaction=True)
def test_a_database_that_can_not_be_opened_is_down(
    breakers: CircuitBreakers, listener: Listener, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(connections.settings["payments"], "NAME", "/nowhere/at/all")
    breakers.suspect("payments", DATABASE)
    eventually(lambda: "opened" in listener.words)
    monkeypatch.undo()
    assert listener.told[0] == ("opened", "payments.wait_for_database: OperationalError")
