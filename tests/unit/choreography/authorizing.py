"""Deliveries of ``order_placed`` to payments, and ways to meddle with what reacts to them."""

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any
from uuid import UUID

import pytest

from choreography.events import registry
from choreography.inbox.deliveries import Delivery
from payments.models import Inbox, Outbox, Payment

CLOUDEVENT = "application/cloudevents+json"
ORDER = UUID("019b76da-a800-7000-8000-000000000001")


def placed(**changes: Any) -> Delivery:
    """The delivery of an ``order_placed`` to payments."""
    envelope = {
        "specversion": "1.0",
        "id": "019b76da-a800-7000-8000-00000000000e",
        "type": "orders.order_placed.v1",
        "source": "orders",
        "subject": str(ORDER),
        "time": "2026-01-01T00:00:00Z",
        "correlationid": "flow",
        "data": {"payment_token": "tok_approved", "total": 2500, "currency": "EUR"},
    }
    return replace(Delivery("payments", json.dumps(envelope).encode(), CLOUDEVENT), **changes)


def meddle(monkeypatch: pytest.MonkeyPatch, **changes: Any) -> None:
    """Change ``payments.authorize_payment`` for one test."""
    name = "payments.authorize_payment"
    monkeypatch.setitem(registry._reactions, name, replace(registry._reactions[name], **changes))


def failing(error: BaseException) -> Callable[..., None]:
    def function(events: Sequence[Any], answers: Sequence[Any]) -> None:
        Payment.objects.create(pk=events[0].subject)
        raise error

    return function


def asking(ask: Callable[[Any], Any]) -> Callable[..., Any]:
    """What ``authorize_payment`` asks first, the question being put as it is, with ``ask`` before it."""
    calls = registry._reactions["payments.authorize_payment"].calls
    assert calls is not None

    def call(events: Sequence[Any]) -> Callable[[Any], Any]:
        question = calls(events)

        def put(event: Any) -> Any:
            ask(event)
            return question(event)

        return put

    return call


def nothing_was_stored() -> bool:
    return not (Payment.objects.exists() or Inbox.objects.exists() or Outbox.objects.exists())
