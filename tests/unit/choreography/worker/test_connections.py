"""A worker's connections to the databases are checked now and then, and whenever something went wrong."""

import pytest

from choreography.worker import tasks


@pytest.fixture
def checks(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Grows by one with every check."""
    checks: list[str] = []
    monkeypatch.setattr(tasks, "close_old_connections", lambda: checks.append("checked"))
    return checks


def test_they_are_checked_once_for_many_tasks(checks: list[str]) -> None:
    connections = tasks.Connections()
    for _ in range(3):
        connections.check()
    assert len(checks) == 1


def test_they_are_checked_at_once_where_something_went_wrong(checks: list[str]) -> None:
    connections = tasks.Connections()
    connections.check()
    connections.distrust()
    connections.check()
    assert len(checks) == 2


def test_they_are_checked_again_when_their_time_is_up(checks: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    connections = tasks.Connections()
    connections.check()
    monkeypatch.setattr(tasks, "_CHECK_EVERY", 0.0)
    connections.check()
    assert len(checks) == 2
