"""Two versions of a fact side by side: whoever is deployed first, nothing is lost, and nothing takes effect twice."""

import json
from typing import Any

import pytest

from choreography import announce
from choreography.broker import topology
from choreography.broker.publisher import Outgoing
from choreography.dead_letters.actions import By, send_again
from choreography.events import registry, versions
from choreography.events.messages import CONTENT_TYPE
from choreography.inbox.deliveries import Parked
from choreography.operations.unheard import unheard
from choreography.storage.tables import ServiceTables
from orders import services
from orders.models import Order
from tests.older_release.releases import V1, V2, announce_version_1, read_version_1
from tests.shop_in_a_box import Shop

READERS = ("payments", "shipping")


def rows(order: Order) -> dict[str, Any]:
    """The outbox rows that announce an order, by event type."""
    placed = ServiceTables("orders").outbox.filter(subject=str(order.pk), event_type__startswith="orders.order_placed")
    return {row.event_type: row for row in placed}


def send(shop: Shop, order: Order, event_type: str, service: str) -> None:
    """What a binding of an older, or a newer, release would have put into a service's queue."""
    shop.publish([Outgoing(rows(order)[event_type].body.encode(), "", topology.queue_name(service), CONTENT_TYPE)])


def effects(order: Order) -> dict[str, int]:
    """How often each reader was affected by the order being placed."""
    return {
        service: ServiceTables(service).inbox.filter(subject=str(order.pk), event_type__in=(V1, V2)).count()
        for service in READERS
    }


@pytest.fixture
def old_publisher(monkeypatch: pytest.MonkeyPatch) -> None:
    """A release of orders that knows version 1 alone."""
    monkeypatch.setattr(versions, "_downcasts", dict(versions._downcasts))
    monkeypatch.setattr(services, "announce", announce)  # put back afterwards
    announce_version_1()


@pytest.fixture
def old_readers(monkeypatch: pytest.MonkeyPatch) -> None:
    """A release of payments and shipping that knows version 1 alone."""
    for module, name in ((registry, "_reactions"), (registry, "_names"), (versions, "_upcasts")):
        monkeypatch.setattr(module, name, dict(getattr(module, name)))
    for service in READERS:
        reaction = registry.reaction_to(service, V2)
        assert reaction is not None
        read_version_1(reaction)


def test_both_versions_are_announced_in_one_transaction_as_one_fact(shop: Shop) -> None:
    order = shop.place()

    old, new = (json.loads(rows(order)[event_type].body) for event_type in (V1, V2))

    assert old["factid"] == new["id"] != old["id"]
    assert (old["subject"], old["time"], old["correlationid"]) == (new["subject"], new["time"], new["correlationid"])
    assert old["data"]["ship_to"]["name"] == new["data"]["customer"]["name"]["full"]
    assert [line["amount"] for line in new["data"]["lines"]] == [2500]
    assert "amount" not in old["data"]["lines"][0]


def test_a_reader_that_gets_both_reacts_once(shop: Shop) -> None:
    order = shop.place()
    for service in READERS:
        send(shop, order, V1, service)

    shop.settle_at_once()

    assert effects(order) == {"payments": 1, "shipping": 1}
    assert shop.status(order) == "completed"


@pytest.mark.parametrize("first", [V1, V2])
def test_whichever_version_comes_first_counts(shop: Shop, first: str) -> None:
    order = shop.place()
    for event_type in (first, V1 if first == V2 else V2):
        send(shop, order, event_type, "shipping")
        shop.drain()

    assert effects(order)["shipping"] == 1
    assert shop.shipment(order).address.name == "Ada Example"


def test_readers_first_they_read_what_an_old_publisher_announces(shop: Shop, old_publisher: None) -> None:
    order = shop.place()
    assert rows(order).keys() == {V1}
    for service in READERS:
        send(shop, order, V1, service)

    shop.settle()

    assert effects(order) == {"payments": 1, "shipping": 1}
    assert shop.status(order) == "completed"
    assert shop.shipment(order).address.name == "Ada Example"


@pytest.mark.usefixtures("old_readers")
def test_publisher_first_old_readers_go_on_with_version_1(shop: Shop) -> None:
    order = shop.place()
    for service in READERS:
        send(shop, order, V1, service)

    shop.settle_at_once()

    assert effects(order) == {"payments": 1, "shipping": 1}


@pytest.mark.usefixtures("old_readers")
def test_a_version_that_an_old_reader_does_not_know_is_parked(shop: Shop) -> None:
    order = shop.place()
    send(shop, order, V2, "payments")
    shop.drain()

    [dead_letter] = shop.dead_letters("payments")

    assert dead_letter.event_type == V2
    assert dead_letter.message == f"payments has no reaction to {V2}"
    assert any(isinstance(step.outcome, Parked) for step in shop.steps if step.service == "payments")


def test_what_was_parked_before_the_upgrade_takes_effect_after_it(shop: Shop) -> None:
    order = shop.place()
    known = registry._names.pop(("payments", V2))
    send(shop, order, V2, "payments")
    shop.drain()
    registry._names["payments", V2] = known
    [dead_letter] = shop.dead_letters("payments")

    send_again(dead_letter, shop, By("ada"))
    shop.settle_at_once()

    assert effects(order)["payments"] == 1
    assert [dead_letter.state for dead_letter in shop.dead_letters("payments")] == ["resolved"]


def test_what_waits_on_the_ladder_while_a_service_is_upgraded_is_read_by_the_new_release(
    shop: Shop, old_publisher: None, gateway: Any
) -> None:
    order = shop.place()
    gateway.down = True
    send(shop, order, V1, "payments")
    shop.drain()
    gateway.down = False
    assert ServiceTables("payments").retries.count() == 1

    shop.settle_at_once()

    assert effects(order)["payments"] == 1


def test_a_fact_that_was_heard_in_another_version_is_not_missing(shop: Shop) -> None:
    order = shop.place()
    for service in READERS:
        send(shop, order, V1, service)
    shop.settle_at_once()
    shop.time.advance(120)

    assert [*unheard("payments")] == []
    assert effects(order) == {"payments": 1, "shipping": 1}
