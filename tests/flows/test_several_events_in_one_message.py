"""A program sends several events in one message: each has its own outcome, and the message ends when all have one."""

import json
from typing import Any

from choreography.events.messages import BATCH_CONTENT_TYPE
from choreography.inbox.deliveries import Done, Duplicate, Parked, RetryLater
from payments.models import Payment
from tests.flows.test_message_is_unusable import event
from tests.shop_in_a_box import Shop

GIVEN_UP = {"x-death": [{"reason": "delivery_limit"}]}


def batch(*events: bytes) -> bytes:
    return b"[" + b",".join(events) + b"]"


def outcomes(shop: Shop) -> list[Any]:
    return [step.outcome for step in shop.steps if step.service == "payments"]


def test_each_event_takes_effect(shop: Shop) -> None:
    shop.send("payments", batch(event(), event(), event()), BATCH_CONTENT_TYPE)
    shop.drain()

    assert outcomes(shop) == [Done()] * 3
    assert Payment.objects.count() == 3
    assert shop.broker.size("payments") == 0


def test_an_event_that_can_not_be_read_is_parked_by_itself(shop: Shop) -> None:
    wrong = event(id=...)
    shop.send("payments", batch(event(), wrong, event()), BATCH_CONTENT_TYPE)
    shop.drain()

    assert [type(outcome) for outcome in outcomes(shop)] == [Done, Parked, Done]
    [dead_letter] = shop.dead_letters("payments")
    assert (bytes(dead_letter.body), dead_letter.content_type) == (wrong, "application/cloudevents+json")


def test_an_event_that_waits_goes_to_the_ladder_by_itself(shop: Shop) -> None:
    early = event(type="orders.order_cancelled.v1", data={"reason": "customer_request"})
    with shop.database_down("payments"):
        shop.send("payments", batch(early, event()), BATCH_CONTENT_TYPE)
        shop.drain()
    assert [type(outcome) for outcome in outcomes(shop)] == [RetryLater, RetryLater]

    shop.pass_time(60)
    assert {type(outcome) for outcome in outcomes(shop)[2:]} == {Done}


def test_a_message_that_comes_again_has_each_effect_once(shop: Shop) -> None:
    message = batch(event(), event())
    shop.send("payments", message, BATCH_CONTENT_TYPE)
    shop.send("payments", message, BATCH_CONTENT_TYPE)
    shop.drain()

    assert outcomes(shop) == [Done(), Done(), Duplicate(), Duplicate()]


def test_a_worker_that_dies_with_some_of_them_done_gets_all_again(shop: Shop) -> None:
    shop.send("payments", batch(event(), event()), BATCH_CONTENT_TYPE)
    assert shop.handle_next("payments") is not None
    shop.lose_connections()
    shop.drain()

    assert outcomes(shop) == [Done(), Duplicate(), Done()]
    assert shop.broker.size("payments") == 0


def test_of_a_message_that_the_broker_gave_up_only_what_had_no_effect_is_parked(shop: Shop) -> None:
    done, poison = event(), event()
    shop.send("payments", batch(done), BATCH_CONTENT_TYPE)
    shop.drain()
    shop.broker.publish(
        "payments.dlx", "", batch(done, poison), content_type=BATCH_CONTENT_TYPE, headers=dict(GIVEN_UP)
    )
    shop.drain()

    assert [type(outcome) for outcome in outcomes(shop)] == [Done, Duplicate, Parked]
    [dead_letter] = shop.dead_letters("payments")
    assert str(dead_letter.event_id) == json.loads(poison)["id"]


def test_what_is_no_batch_is_parked_whole(shop: Shop) -> None:
    shop.send("payments", b'{"specversion": "1.0"}', BATCH_CONTENT_TYPE)
    shop.drain()

    [dead_letter] = shop.dead_letters("payments")
    assert dead_letter.message == "the batch is no JSON array of events"


def test_a_message_without_events_is_acknowledged(shop: Shop) -> None:
    shop.send("payments", b"[]", BATCH_CONTENT_TYPE)
    shop.drain()

    assert outcomes(shop) == []
    assert shop.broker.size("payments") == 0
