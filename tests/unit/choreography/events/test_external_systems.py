"""An external system: one client per process, and a way to call nothing that changes it."""

from collections.abc import Iterator

import pytest
from django.core.signals import setting_changed
from pytest_django.fixtures import Settings

from choreography.core.errors import Outage
from choreography.events.external_systems import ExternalSystem, WouldCall, refusing_calls


class Oracle:
    """A client of an external system."""

    down = False

    def look(self, at: str) -> str:
        if self.down:
            raise Outage("no answer")
        return f"seen {at}"

    def act(self, *, on: str) -> str:
        return f"done to {on}"


@pytest.fixture
def oracle(settings: Settings) -> Iterator[ExternalSystem[Oracle]]:
    settings.ORACLE = f"{__name__}.Oracle"
    system = ExternalSystem[Oracle]("oracle", "ORACLE", reads={"look"}, probe=lambda it: it.look("probe"))
    yield system
    setting_changed.disconnect(system._forget)


def test_the_setting_names_the_client_which_is_made_once(oracle: ExternalSystem[Oracle]) -> None:
    assert oracle() is oracle()
    assert oracle().act(on="it") == "done to it"


def test_refusing_calls_allows_reads_and_tells_what_would_be_called(oracle: ExternalSystem[Oracle]) -> None:
    with refusing_calls():
        assert oracle().look("it") == "seen it"
        with pytest.raises(WouldCall, match="would call act of the oracle") as refused:
            oracle().act(on="it")
    assert (refused.value.system, refused.value.method, refused.value.arguments) == ("oracle", "act", {"on": "it"})
    assert oracle().act(on="it") == "done to it"


def test_calls_are_allowed_again_after_an_error(oracle: ExternalSystem[Oracle]) -> None:
    with pytest.raises(ZeroDivisionError), refusing_calls():
        raise ZeroDivisionError
    assert oracle().act(on="it") == "done to it"


def test_a_probe_fails_while_the_system_is_down(
    oracle: ExternalSystem[Oracle], monkeypatch: pytest.MonkeyPatch
) -> None:
    oracle.probe()
    monkeypatch.setattr(Oracle, "down", True)
    with pytest.raises(Outage):
        oracle.probe()
