"""Workers and relays keep the garbage collector away from what they have imported."""

import gc
import signal
from collections.abc import Iterator

import pytest
from django.core.management import call_command

from choreography.outbox import relay
from choreography.worker import setup


@pytest.fixture(autouse=True)
def thawed() -> Iterator[None]:
    assert gc.get_freeze_count() == 0
    yield
    gc.unfreeze()


def test_a_worker_freezes_its_imports_before_its_pool_starts() -> None:
    setup._prepare(instance=None)
    assert gc.get_freeze_count() > 10_000


@pytest.mark.django_db(databases="__all__")
def test_a_relay_freezes_its_imports_before_it_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    frozen = []
    monkeypatch.setattr(relay, "run", lambda *_: frozen.append(gc.get_freeze_count()))
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    call_command("relay", "orders")
    assert frozen[0] > 10_000
