"""The broker keeps what it was to hand back: a service recorded what it puts on the ladder, and sends it again."""

from collections.abc import Sequence
from datetime import timedelta

import pytest

from choreography.broker import topology
from choreography.broker.publisher import Outgoing, published_to
from choreography.core.conf import conf
from choreography.core.errors import Outage
from choreography.dead_letters.lost_retries import resend_lost_retries
from choreography.inbox.deliveries import Duplicate
from choreography.storage.tables import ServiceTables
from orders.models import Order
from tests.shop_in_a_box import Shop, assert_invariants


class BrokerDown:
    """A publisher whose broker is down."""

    def publish(self, messages: Sequence[Outgoing]) -> None:
        raise Outage("the broker is down")

    def close(self) -> None:
        """Nothing is open."""


LOOK_FOR_LOST = "payments.publish_lost_retries"


def lose_what_is_on_the_ladder(shop: Shop) -> int:
    """As a broker does that never delivers it."""
    return sum(shop.broker.purge(queue.name) for each in shop.services for queue in topology.retry_queues(each))


def recorded(service: str = "payments") -> int:
    return int(ServiceTables(service).retries.count())


def wait_until_it_counts_as_lost(shop: Shop) -> None:
    wait = timedelta(seconds=conf().retry_rungs[0]) + conf().lost_retry_after
    shop.time.advance(wait.total_seconds() + 1)


def test_a_delivery_the_ladder_has_lost_is_sent_again(shop: Shop) -> None:
    order = shop.place(token="tok_fails_twice")
    shop.hear("payments")
    assert lose_what_is_on_the_ladder(shop) == 1

    wait_until_it_counts_as_lost(shop)
    shop.tick(LOOK_FOR_LOST)
    shop.settle_at_once()

    assert shop.status(order) == Order.Status.COMPLETED
    assert recorded() == 0
    assert_invariants(shop, [order])


def test_its_attempts_go_on_counting(shop: Shop) -> None:
    shop.place(token="tok_fails_twice")
    shop.hear("payments")
    lose_what_is_on_the_ladder(shop)
    wait_until_it_counts_as_lost(shop)

    shop.tick(LOOK_FOR_LOST)

    message = shop.take("payments")
    assert message is not None
    assert message.headers["x-choreography-attempts"] == 1


def test_a_message_that_was_only_late_has_its_effect_once(shop: Shop) -> None:
    order = shop.place(token="tok_timeout")
    shop.hear("payments")
    wait_until_it_counts_as_lost(shop)
    shop.tick(LOOK_FOR_LOST)

    shop.settle_at_once()

    assert any(isinstance(outcome, Duplicate) for outcome in shop.outcomes())
    assert recorded() == 0
    assert_invariants(shop, [order])


def test_what_comes_back_in_time_is_not_sent_again(shop: Shop) -> None:
    order = shop.place(token="tok_timeout")
    shop.hear("payments")
    shop.tick(LOOK_FOR_LOST)

    shop.settle_at_once()
    wait_until_it_counts_as_lost(shop)
    shop.tick(LOOK_FOR_LOST)

    assert recorded() == 0
    assert not any(isinstance(outcome, Duplicate) for outcome in shop.outcomes())
    assert_invariants(shop, [order])


def test_copies_become_rarer_while_the_message_waits_in_a_long_queue(shop: Shop) -> None:
    shop.place(token="tok_timeout")
    shop.hear("payments")
    lose_what_is_on_the_ladder(shop)
    inbox = topology.queue_name("payments")
    sent = []
    for _ in range(3):
        wait_until_it_counts_as_lost(shop)
        shop.tick(LOOK_FOR_LOST)
        sent.append(shop.broker.size(inbox))
    assert sent == [1, 2, 2], "after one minute, one more, and then two"


@pytest.mark.parametrize("end", ["parked", "done"])
def test_the_record_ends_with_the_delivery(shop: Shop, end: str) -> None:
    order = shop.place(token="tok_fails_twice")
    if end == "parked":
        shop.send("payments", b'{"no": "event"}')
    shop.settle_at_once()
    assert recorded() == 0
    assert shop.status(order) == Order.Status.COMPLETED


def test_a_broker_that_is_down_is_left_to_the_next_tick(shop: Shop) -> None:
    order = shop.place(token="tok_fails_twice")
    shop.hear("payments")
    lose_what_is_on_the_ladder(shop)
    wait_until_it_counts_as_lost(shop)

    with published_to(BrokerDown()):
        assert resend_lost_retries("payments") == 0
    shop.tick(LOOK_FOR_LOST)
    shop.settle_at_once()

    assert shop.status(order) == Order.Status.COMPLETED
