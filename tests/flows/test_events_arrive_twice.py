"""A message delivered more than once has the effect of one delivery."""

import pytest
from pytest_django.fixtures import Settings

from choreography.inbox.deliveries import Done, Duplicate
from choreography.testing import Step
from tests.flows.scenarios import SCENARIOS, Scenario
from tests.shop_in_a_box import Shop, assert_invariants


@pytest.mark.parametrize("scenario", SCENARIOS, ids=str)
def test_repeating_everything_after_the_end_changes_nothing(shop: Shop, scenario: Scenario) -> None:
    order = scenario.start(shop)
    shop.settle_at_once()
    before = shop.order(order).__dict__ | {"announced": shop.announced(order), "_state": None}
    steps = [step for step in shop.steps if isinstance(step.outcome, Done)]

    for step in steps:
        shop.repeat(step)
    shop.settle_at_once()

    assert len(shop.steps) >= 2 * len(steps)
    assert all(isinstance(outcome, Duplicate) for outcome in shop.outcomes()[-len(steps) :])
    assert shop.order(order).__dict__ | {"announced": shop.announced(order), "_state": None} == before
    assert before["status"] == scenario.end
    assert_invariants(shop, [order])


@pytest.mark.parametrize("scenario", SCENARIOS, ids=str)
def test_every_message_arriving_twice_at_once_changes_nothing(
    shop: Shop, scenario: Scenario, monkeypatch: pytest.MonkeyPatch
) -> None:
    handle = Shop.handle
    repeated = []

    def handle_twice(self: Shop, service: str, message: object) -> Step:
        step = handle(self, service, message)  # type: ignore[arg-type]
        repeated.append(handle(self, service, message).outcome)  # type: ignore[arg-type]
        return step

    monkeypatch.setattr(Shop, "handle", handle_twice)
    order = scenario.start(shop)
    shop.settle_at_once()

    assert shop.status(order) == scenario.end
    assert any(isinstance(outcome, Duplicate) for outcome in repeated)
    assert_invariants(shop, [order])


def test_the_relay_publishing_everything_again_changes_nothing(shop: Shop, settings: Settings) -> None:
    """As after a crash between the broker's confirmation and the mark in the outbox."""
    order = shop.place()
    shop.settle_at_once()
    for row in shop.outboxes(order):
        type(row).objects.filter(pk=row.pk).update(published_at=None)

    shop.settle_at_once()

    assert shop.status(order) == "completed"
    assert_invariants(shop, [order])
