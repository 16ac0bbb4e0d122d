"""A circuit opens only when what it asks is down, and closes when it answers."""

import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
from django.db import OperationalError, connections

from choreography.core.errors import Outage
from choreography.events import registry
from choreography.events.external_systems import ExternalSystem
from choreography.inbox.deliveries import DATABASE
from choreography.worker import circuit_breaker
from choreography.worker.circuit_breaker import Circuit, Circuits
from tests.processes import eventually

GATEWAY = "payment gateway"


class Notes:
    """A holder that writes down what it is told."""

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
def notes() -> Notes:
    return Notes()


@pytest.fixture
def ours(notes: Notes, monkeypatch: pytest.MonkeyPatch) -> Iterator[Circuits]:
    monkeypatch.setattr(circuit_breaker, "_FIRST_PAUSE", 0.01)
    ours = Circuits(notes)
    yield ours
    ours.stop()
    eventually(lambda: not [each for each in threading.enumerate() if ".wait_for_" in each.name], within=10)


@pytest.fixture
def answers(monkeypatch: pytest.MonkeyPatch) -> Callable[[list[Exception | None]], None]:
    """Set how the payment gateway's probes end, one after the other; the last for ever."""

    def set_answers(answers: list[Exception | None]) -> None:
        def probe(client: Any) -> None:
            answer = answers.pop(0) if len(answers) > 1 else answers[0]
            if answer:
                raise answer

        host: ExternalSystem[Any] = ExternalSystem(GATEWAY, "PAYMENT_GATEWAY", reads=(), probe=probe)
        for name, reaction in registry._reactions.items():
            if reaction.host and reaction.host.name == GATEWAY:
                monkeypatch.setitem(registry._reactions, name, replace(reaction, host=host))

    return set_answers


Answers = Callable[[list[Exception | None]], None]


def is_idle(ours: Circuits) -> bool:
    return not ours._watched


def test_nothing_opens_where_the_host_answers(ours: Circuits, notes: Notes, answers: Answers) -> None:
    answers([None])
    ours.suspect("payments", GATEWAY)
    eventually(lambda: is_idle(ours))
    assert notes.told == []


def test_a_circuit_opens_probes_and_closes(ours: Circuits, notes: Notes, answers: Answers) -> None:
    answers([Outage("down"), Outage("down"), Outage("down"), None])
    ours.suspect("payments", GATEWAY)
    eventually(lambda: "closed" in notes.words)
    assert notes.words == ["opened", "still open", "still open", "closed"]
    assert notes.told[0] == ("opened", "payments.wait_for_payment_gateway: Outage: down")
    assert ours.open == frozenset()


def test_an_open_circuit_is_known_and_opens_once(ours: Circuits, notes: Notes, answers: Answers) -> None:
    answers([Outage("down")])
    for _ in range(10):
        ours.suspect("payments", GATEWAY)
    eventually(lambda: "still open" in notes.words)
    ours.suspect("payments", GATEWAY)
    assert ours.open == {Circuit("payments", GATEWAY)}
    assert notes.words.count("opened") == 1


def test_a_circuit_opens_again_the_next_time(ours: Circuits, notes: Notes, answers: Answers) -> None:
    for _ in range(2):
        answers([Outage("down"), None])
        ours.suspect("payments", GATEWAY)
        eventually(lambda: is_idle(ours))
    assert notes.words == ["opened", "closed"] * 2


def test_a_probe_that_is_broken_itself_holds_nobody_back(ours: Circuits, notes: Notes, answers: Answers) -> None:
    answers([ZeroDivisionError()])
    ours.suspect("payments", GATEWAY)
    eventually(lambda: is_idle(ours))
    assert notes.told == []

    answers([Outage("down"), ZeroDivisionError()])
    ours.suspect("payments", GATEWAY)
    eventually(lambda: "closed" in notes.words)


def test_what_others_say_of_their_errors_is_not_told(ours: Circuits, notes: Notes, answers: Answers) -> None:
    answers([OperationalError("host 10.0.0.7, user ada"), None])
    ours.suspect("payments", GATEWAY)
    eventually(lambda: "closed" in notes.words)
    assert notes.told[0] == ("opened", "payments.wait_for_payment_gateway: OperationalError")


def test_an_open_circuit_ends_with_its_worker(ours: Circuits, notes: Notes, answers: Answers) -> None:
    answers([Outage("down")])
    ours.suspect("payments", GATEWAY)
    eventually(lambda: "opened" in notes.words)
    ours.stop()
    eventually(lambda: is_idle(ours), within=10)
    assert "closed" not in notes.words

    ours.suspect("payments", GATEWAY)
    assert is_idle(ours)


@pytest.mark.django_db(databases="__all__", transaction=True)
def test_a_database_that_answers_is_not_down(ours: Circuits, notes: Notes) -> None:
    ours.suspect("payments", DATABASE)
    eventually(lambda: is_idle(ours))
    assert notes.told == []


@pytest.mark.django_db(databases="__all__", transaction=True)
def test_a_database_that_can_not_be_opened_is_down(
    ours: Circuits, notes: Notes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(connections.settings["payments"], "NAME", "/nowhere/at/all")
    ours.suspect("payments", DATABASE)
    eventually(lambda: "opened" in notes.words)
    monkeypatch.undo()
    assert notes.told[0] == ("opened", "payments.wait_for_database: OperationalError")
