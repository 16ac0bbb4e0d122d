"""A company outside: one client per process, and a way only to look."""

from collections.abc import Iterator

import pytest
from django.core.signals import setting_changed
from pytest_django.fixtures import Settings

from choreography.core.errors import Outage
from choreography.events.external_systems import ExternalSystem, WouldCall, refusing_calls


class Oracle:
    """Somebody to ask."""

    down = False

    def look(self, at: str) -> str:
        if self.down:
            raise Outage("nobody answers")
        return f"seen {at}"

    def act(self, *, on: str) -> str:
        return f"done to {on}"


@pytest.fixture
def oracle(settings: Settings) -> Iterator[ExternalSystem[Oracle]]:
    settings.ORACLE = f"{__name__}.Oracle"
    host = ExternalSystem[Oracle]("oracle", "ORACLE", reads={"look"}, probe=lambda it: it.look("probe"))
    yield host
    setting_changed.disconnect(host._forget)


def test_the_setting_names_the_client_which_is_made_once(oracle: ExternalSystem[Oracle]) -> None:
    assert oracle() is oracle()
    assert oracle().act(on="it") == "done to it"


def test_who_only_looks_may_read_and_is_told_what_would_be_asked(oracle: ExternalSystem[Oracle]) -> None:
    with refusing_calls():
        assert oracle().look("it") == "seen it"
        with pytest.raises(WouldCall, match="would ask the oracle to act") as refusal:
            oracle().act(on="it")
    assert (refusal.value.question, refusal.value.details) == ("act", {"on": "it"})
    assert oracle().act(on="it") == "done to it"


def test_a_probe_fails_while_nobody_answers(oracle: ExternalSystem[Oracle], monkeypatch: pytest.MonkeyPatch) -> None:
    oracle.probe()
    monkeypatch.setattr(Oracle, "down", True)
    with pytest.raises(Outage):
        oracle.probe()
