"""A new version of an event is rolled out with real processes: nothing is lost, and nothing takes effect twice.

Whichever service is deployed first, messages of both versions are in queues, on the ladder and in outboxes meanwhile.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from kombu import Connection

from tests.processes import SERVICES, Clerk, RunningShop, eventually, running_shop
from tests.servers import a_corner_of_the_servers

pytestmark = [pytest.mark.processes, pytest.mark.slow, pytest.mark.rabbitmq, pytest.mark.postgresql]

V1, V2 = "orders.order_placed.v1", "orders.order_placed.v2"
READERS = ("payments", "shipping")
#: Of the orders placed in each phase; the first takes the ladder before it is authorized.
TOKENS = ("tok_fails_twice", "tok_approved", "tok_declined_funds", "tok_approved", "tok_timeout", "tok_approved")


def release(number: int) -> dict[str, Any]:
    return {"DJANGO_SETTINGS_MODULE": "tests.older_release.settings", "RELEASE": str(number)}


@pytest.fixture
def shop(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[RunningShop]:
    """All processes of the first release, on a broker where nobody has subscribed to version 2."""
    with a_corner_of_the_servers(request) as corner, running_shop(tmp_path, **corner) as shop:
        with Connection(corner["BROKER_URL"]) as connection:
            namespace, channel = corner["CHOREOGRAPHY_NAMESPACE"], connection.default_channel
            for service in READERS:
                channel.queue_unbind(namespace + service, namespace + V2)  # type: ignore[attr-defined]
        deploy(shop, *(f"{kind}-{service}" for service in SERVICES for kind in ("relay", "worker")), **release(1))
        shop.start("beat", **release(1))
        yield shop


def deploy(shop: RunningShop, *names: str, **environment: str) -> None:
    """Start processes of a release, each with the code of its own service alone."""
    for name in names:
        shop.start(name, SHOP_SERVICES=name.partition("-")[2], **environment)
    shop.started(*names)


@contextmanager
def old_clerk(shop: RunningShop) -> Iterator[Clerk]:
    """A web process of the first release."""
    clerk = Clerk(shop.environment | release(1), shop.folder / "old-clerk.log")
    try:
        yield clerk
    finally:
        clerk.leave()


def place_some(clerk: Any) -> list[str]:
    return [clerk.ask("place", token=token) for token in TOKENS]


def replace(shop: RunningShop, *names: str, killed: bool = False, **environment: str) -> None:
    """Deploy a release: end processes, or kill them with all they have in hand, and start it in their place."""
    for name in names:
        if killed:
            shop[name].kill()
            del shop.processes[name]
    if not killed:
        shop.end(*names)
    deploy(shop, *names, **environment)


def assert_each_took_effect_once(shop: RunningShop, orders: list[str]) -> None:
    shop.wait_until_all_end()
    assert shop.ask("broken_promises") == []
    assert shop.ask("unheard") == []
    for order in orders:
        for service in READERS:
            assert shop.ask("effects", service=service, subject=order, event_types=[V1, V2]) == 1


def test_publisher_first_with_all_that_is_replaced_killed(shop: RunningShop) -> None:
    with old_clerk(shop) as old:
        orders = place_some(old)
        assert {shop.ask("announced", service="orders", subject=order)[0] for order in orders} == {V1}
        replace(shop, "relay-orders", "worker-orders", killed=True)
        orders += place_some(shop)  # both versions; the readers hear the old one
        orders += place_some(old)  # a web process that was not replaced yet
    replace(shop, *(f"worker-{service}" for service in READERS), killed=True)
    orders += place_some(shop)
    replace(shop, *(f"relay-{service}" for service in READERS), killed=True)

    assert_each_took_effect_once(shop, orders)


def test_readers_first_with_all_that_is_replaced_ended(shop: RunningShop) -> None:
    readers = [f"worker-{service}" for service in READERS]
    with old_clerk(shop) as old:
        orders = place_some(old)
        replace(shop, *readers, **release(2))
        orders += place_some(old)  # version 1 alone, lifted
        replace(shop, "relay-orders", "worker-orders")
        orders += place_some(shop)  # both versions, of which the readers hear both
        orders += place_some(old)
    eventually(lambda: V2 in {*shop.ask("heard_types", service="payments")}, otherwise=lambda: shop.ask("standing"))
    replace(shop, *readers)
    orders += place_some(shop)

    assert_each_took_effect_once(shop, orders)
