"""A worker is killed at the worst moments of each delivery: the order ends as if nothing had happened."""

from collections.abc import Callable, Iterator

import pytest

from choreography.broker.embedded.store import Stored
from choreography.testing import FrozenClock, Step
from tests.flows.providers import Carrier, Gateway
from tests.flows.scenarios import SCENARIOS, Scenario
from tests.shop_in_a_box import Shop, assert_invariants


class FragileShop(Shop):
    """A shop in which the worker dies at one of its deliveries."""

    die: Callable[[Shop, str], Step | None] = Shop.crash_before_commit
    doomed = 0
    """Which delivery it is, counted from 1."""
    begun = 0

    def handle(self, service: str, message: Stored) -> Step:
        self.begun += 1
        if self.begun == self.doomed:
            self.lose_connections()  # it takes the same message again: none stands before it
            step = self.die(self, service)
            if step is not None:
                return step
            message = self.take(service) or pytest.fail("the message is gone")
        return super().handle(service, message)


@pytest.fixture
def shop(db: None, frozen: FrozenClock, gateway: type[Gateway], carrier: type[Carrier]) -> Iterator[FragileShop]:
    shop = FragileShop(frozen)
    yield shop
    shop.close()


@pytest.mark.parametrize("die", [Shop.crash_before_commit, Shop.crash_before_acknowledging])
@pytest.mark.parametrize("scenario", SCENARIOS, ids=str)
def test_at_any_delivery_the_order_ends_as_it_would_have(
    shop: FragileShop, scenario: Scenario, die: Callable[[Shop, str], Step | None]
) -> None:
    shop.die = die
    for delivery in range(1, 100):
        shop.begun, shop.doomed = 0, delivery
        order = scenario.start(shop)
        shop.settle_at_once()
        assert shop.status(order) == scenario.end
        assert_invariants(shop, [order])
        if shop.begun < delivery:
            break
    assert delivery > 3, "it never died"
