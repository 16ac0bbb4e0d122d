"""May an old version of an event go? What stands in the way is named."""

import json
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest
from django.core.management import CommandError, call_command
from pytest_django.fixtures import Settings

from choreography.broker import topology
from choreography.broker.publisher import BrokerPublisher, Outgoing, connect
from choreography.operations.retiring import obstacles
from choreography.storage.tables import ServiceTables
from tests.flows.providers import Gateway
from tests.shop_in_a_box import Shop

V1, V2 = "orders.order_placed.v1", "orders.order_placed.v2"
WAREHOUSE = Path(__file__).parents[1] / "contracts" / "warehouse"


def test_the_warehouse_reads_what_the_contract_promises(shop: Shop) -> None:
    order = shop.place()
    body = ServiceTables("orders").outbox.get(subject=str(order.pk), event_type=V2).body

    said = subprocess.run(
        [sys.executable, WAREHOUSE / "pick.py"], input=body + "\n", capture_output=True, text=True, check=True
    ).stdout

    assert said == "2 x TEA\n"


def test_a_version_that_is_read_may_not_go(shop: Shop) -> None:
    found = [*obstacles(V2, [str(WAREHOUSE)])]

    assert {line.partition(" ")[0] for line in found} >= {
        "payments.authorize_payment",
        "shipping.plan_shipment",
        "warehouse.pick",
    }


def test_a_version_that_nobody_reads_may_go(shop: Shop) -> None:
    shop.place()
    shop.settle_at_once()

    assert [*obstacles(V1)] == []


def test_what_waits_stands_in_the_way(shop: Shop) -> None:
    order = shop.place()
    body = ServiceTables("orders").outbox.get(subject=str(order.pk), event_type=V1).body
    broken = json.loads(body)
    broken["data"] = {}
    shop.send("payments", json.dumps(broken).encode())
    shop.services.clear()
    shop.services.append("payments")
    shop.drain()

    assert [*obstacles(V1)] == [
        "1 wait in the outbox of orders: see that its relay runs",
        "1 are parked at payments: mend them and send them again, or discard them",
    ]


def test_messages_in_a_queue_stand_in_the_way(shop: Shop, settings: Settings, tmp_path: Path) -> None:
    settings.CHOREOGRAPHY = settings.CHOREOGRAPHY | {"BROKER_URL": f"embedded://{tmp_path}/broker.sqlite3"}
    with connect() as connection:
        topology.declare(connection)
    tick = Outgoing(body=b"{}", exchange="", routing_key=topology.timer_queue("payments").name)
    with closing(BrokerPublisher()) as publisher:
        publisher.publish([Outgoing(body=b"{}", exchange=V2), Outgoing(body=b"{}", exchange=V2), tick])

    assert [*obstacles(V1)] == [
        f"2 messages wait in the queues of {service} and may be of it: wait until there are none"
        for service in ("payments", "shipping")
    ]


def test_a_broker_that_is_down_stands_in_the_way(shop: Shop, settings: Settings) -> None:
    settings.CHOREOGRAPHY = settings.CHOREOGRAPHY | {"BROKER_URL": "amqp://guest:guest@127.0.0.1:1//"}

    [found] = obstacles(V1)

    assert found.startswith("the broker can't be reached")


def test_an_event_type_that_is_not_known_is_refused(shop: Shop) -> None:
    with pytest.raises(CommandError, match=r"orders.order_packed.v1 is not announced here"):
        call_command("choreography", "contracts", "retire-check", "orders.order_packed.v1")


@pytest.mark.parametrize(("event_types", "stands_in_the_way"), [([V1], True), ([V1, V2], False)])
def test_a_reaction_that_hears_a_newer_version_too_does_not_stand_in_the_way(
    shop: Shop, tmp_path: Path, event_types: list[str], stands_in_the_way: bool
) -> None:
    reads = [{"reaction": "warehouse.pick", "event_types": event_types, "schema": {"type": "object"}}]
    (tmp_path / "warehouse.json").write_text(json.dumps({"service": "warehouse", "reads": reads}))

    found = [*obstacles(V1, [str(tmp_path)])]

    assert any(line.startswith("warehouse.pick reads it") for line in found) == stands_in_the_way


def test_what_is_on_the_ladder_stands_in_the_way(shop: Shop, gateway: type[Gateway]) -> None:
    order = shop.place()
    body = ServiceTables("orders").outbox.get(subject=str(order.pk), event_type=V1).body
    gateway.down = True
    shop.send("payments", body.encode())
    shop.services[:] = ["payments"]
    shop.drain()

    assert "1 are on the retry ladder of payments: wait until they have come back" in [*obstacles(V1)]
