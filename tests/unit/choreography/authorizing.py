"""Deliveries of ``order_placed`` to payments, and ways to change the reaction to them."""

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any
from uuid import UUID

from choreography.events.registry import reaction_to
from choreography.inbox.deliveries import Delivery
from payments.models import Inbox, Outbox, Payment

AUTHORIZE = "payments.authorize_payment"
"""The reaction to it."""
CLOUDEVENT = "application/cloudevents+json"
ORDER = UUID("019b76da-a800-7000-8000-000000000001")


def placed(**changes: Any) -> Delivery:
    """The delivery of an ``order_placed`` to payments."""
    envelope = {
        "specversion": "1.0",
        "id": "019b76da-a800-7000-8000-00000000000e",
        "type": "orders.order_placed.v2",
        "source": "orders",
        "subject": str(ORDER),
        "time": "2026-01-01T00:00:00Z",
        "correlationid": "flow",
        "data": {"payment_token": "tok_approved", "total": 2500, "currency": "EUR"},
    }
    return replace(Delivery("payments", json.dumps(envelope).encode(), CLOUDEVENT), **changes)


def failing(error: BaseException) -> Callable[..., None]:
    """A reaction that stores something and then raises the error."""

    def function(payment: Payment, event: Any, answer: Any) -> None:
        Payment.objects.create(pk=event.subject)
        raise error

    return function


def calling(ask: Callable[[Any], Any]) -> Callable[..., Any]:
    """What ``authorize_payment`` calls the provider with, after a call of ``ask(event)``."""
    reaction = reaction_to("payments", "orders.order_placed.v2")
    assert reaction is not None
    assert reaction.ask is not None
    original = reaction.ask

    def ask_after(payment: Payment, event: Any) -> Any:
        ask(event)
        return original(payment, event)

    return ask_after


def nothing_was_stored() -> bool:
    return not (Payment.objects.exists() or Inbox.objects.exists() or Outbox.objects.exists())
