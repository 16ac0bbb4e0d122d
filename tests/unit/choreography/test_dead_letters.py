"""Sending a dead letter again: the message as it came, to the service that gave it up, once."""

import json
from collections.abc import Iterator
from typing import Any
from uuid import UUID

import pytest
from pytest_django.fixtures import Settings

from choreography import world
from choreography.contracts import Event
from choreography.delivery import LETTER
from choreography.errors import Outage, Transient
from choreography.letters import NotParked, send_again
from choreography.models import DeadLetter, table_of
from choreography.publishing import BrokerPublisher, Outgoing, connect
from choreography.testing import FrozenWorld
from orders.models import Order
from payments.events import PaymentCaptured
from tests.shop_in_a_box import Shop

pytestmark = pytest.mark.django_db(databases="__all__")


@pytest.fixture
def shop() -> Iterator[Shop]:
    frozen = FrozenWorld()
    with world.replaced(frozen):
        shop = Shop(frozen)
        yield shop
        shop.close()


def captured(order_id: UUID) -> bytes:
    """The event that an order's payment was captured, as payments would announce it."""
    event = Event[Any](
        id=world.new_id(),
        type=PaymentCaptured.event_type,
        source="payments",
        subject=order_id,
        time=world.now(),
        data=PaymentCaptured(amount=2500, currency="EUR"),
    )
    return event.to_json().encode()


def hear(shop: Shop, body: bytes, **headers: Any) -> DeadLetter:
    """A message arrives in orders' queue and is given up."""
    shop.publish([Outgoing(body=body, exchange="", routing_key="orders", headers=headers)])
    shop.drain()
    return letter()


def letter() -> DeadLetter:
    found: DeadLetter = table_of("orders", "DeadLetter").objects.get()
    return found


def unknown_order(shop: Shop) -> DeadLetter:
    """Orders hears of an order it does not know."""
    return hear(shop, captured(world.new_id()))


def test_a_letter_sent_again_is_resolved_when_the_reaction_takes_effect(shop: Shop) -> None:
    parked = unknown_order(shop)
    assert (parked.state, parked.error) == ("parked", "UnknownOrder")
    order = Order.objects.create(total=2500, currency="EUR", pk=parked.subject)  # a person mends what was missing

    send_again(parked, shop)
    assert letter().state == "retrying"
    shop.handle_next("orders")

    assert letter().state == "resolved"
    assert shop.order(order).captured_at is not None


def test_a_letter_that_fails_again_is_parked_again_and_stays_one_letter(shop: Shop) -> None:
    parked = unknown_order(shop)
    parked.message = "what it said before"
    parked.save()

    send_again(parked, shop)
    shop.drain()

    assert letter().pk == parked.pk
    assert letter().state == "parked"
    assert "has no order" in letter().message


def test_the_message_goes_out_as_it_came_without_its_history(shop: Shop) -> None:
    body = captured(world.new_id())
    history = {
        "x-choreography-attempts": 2,
        "x-choreography-waits": 1,
        "x-choreography-first-seen": "2026-01-01T00:00:00+00:00",
        "x-death": [{"reason": "rejected"}],
        "x-first-death-queue": "orders",
    }
    parked = hear(shop, body, colour="blue", **history)

    send_again(parked, shop)

    message = shop.broker.get(["orders"], "reader")
    assert message is not None
    assert message.body == body
    assert message.content_type == "application/cloudevents+json"
    assert message.headers == {"colour": "blue", LETTER: parked.key}


def test_a_message_that_is_no_event_can_be_sent_again_too(shop: Shop) -> None:
    parked = hear(shop, b"\xff\x00 not JSON")

    send_again(parked, shop)
    shop.drain()

    assert letter().state == "parked"
    assert letter().attempts == 1


@pytest.mark.parametrize("state", [DeadLetter.State.RETRYING, DeadLetter.State.RESOLVED])
def test_a_letter_that_is_not_parked_is_refused(shop: Shop, state: str) -> None:
    parked = unknown_order(shop)
    table_of("orders", "DeadLetter").objects.update(state=state)

    with pytest.raises(NotParked, match="is not parked but"):
        send_again(parked, shop)

    assert shop.broker.size("orders") == 0


def test_with_the_broker_down_the_letter_stays_parked(shop: Shop, settings: Settings) -> None:
    parked = unknown_order(shop)
    settings.CHOREOGRAPHY = settings.CHOREOGRAPHY | {"BROKER_URL": "amqp://guest:guest@127.0.0.1:1//"}

    with pytest.raises(Transient):
        send_again(parked)

    assert letter().state == "parked"


def test_without_a_word_it_goes_to_the_configured_broker(shop: Shop, settings: Settings) -> None:
    parked = unknown_order(shop)
    settings.DATA_DIR.mkdir(parents=True)
    settings.CHOREOGRAPHY = settings.CHOREOGRAPHY | {"BROKER_URL": f"embedded://{settings.DATA_DIR}/broker.sqlite3"}

    send_again(parked)

    assert waiting_for("orders") == [json.loads(bytes(parked.body))]


def test_a_broker_that_goes_down_while_it_is_sent_leaves_it_parked(shop: Shop) -> None:
    parked = unknown_order(shop)

    with pytest.raises(Outage):
        send_again(parked, BrokerPublisher("amqp://guest:guest@127.0.0.1:1//"))

    assert letter().state == "parked"


def waiting_for(service: str) -> list[Any]:
    """What lies in a service's queue on the configured broker."""
    found = []
    channel: Any
    with connect() as connection, connection.channel() as channel:
        while message := channel.basic_get(service, no_ack=True):
            found.append(json.loads(message.body))
    return found
