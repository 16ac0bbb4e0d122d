"""Real Celery workers: every pool, a graceful end, no stalls, and what Flower and ``inspect`` see of them."""

import base64
import json
import socket
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from urllib.error import HTTPError, URLError

import pytest

from tests.processes import RunningShop, completed, eventually, running_shop, worker
from tests.servers import a_corner_of_the_servers, free_ports
from tests.wire import event, sender

pytestmark = [pytest.mark.processes, pytest.mark.slow]


@pytest.fixture(scope="module")
def shops(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, RunningShop]]:
    """The shops opened so far, by kind."""
    with ExitStack() as stack:
        shops: dict[str, RunningShop] = Shops(request, tmp_path_factory.mktemp("shops"), stack)
        yield shops


class Shops(dict[str, RunningShop]):
    """Opens a shop, ``embedded`` or ``real``, when it is first asked for."""

    def __init__(self, request: pytest.FixtureRequest, folder: Path, stack: ExitStack) -> None:
        super().__init__()
        self._request, self._folder, self._stack = request, folder, stack

    def __missing__(self, kind: str) -> RunningShop:
        corner = {} if kind == "embedded" else self._stack.enter_context(a_corner_of_the_servers(self._request))
        shop = running_shop(self._folder / kind, SANDBOX_SLOW_SECONDS="1", **corner)
        self[kind] = self._stack.enter_context(shop)
        return self[kind]


def order_placed(token: str) -> dict[str, Any]:
    return event(data={"payment_token": token, "total": 1999, "currency": "EUR"})


@pytest.mark.parametrize(
    ("kind", "pool"),
    [
        ("embedded", "threads"),
        ("embedded", "solo"),
        ("embedded", "prefork"),
        pytest.param("real", "prefork", marks=[pytest.mark.rabbitmq, pytest.mark.postgresql]),
        pytest.param("real", "solo", marks=[pytest.mark.rabbitmq, pytest.mark.postgresql]),
    ],
)
def test_a_worker_retries_and_ends_when_it_has_finished_what_it_does(
    shops: dict[str, RunningShop], kind: str, pool: str
) -> None:
    shop = shops[kind]
    process = shop.run(f"worker-{pool}", worker("payments", pool=pool, concurrency=2))
    retried, slow = order_placed("tok_timeout"), order_placed("tok_slow")
    with sender(shop) as foreigner:
        foreigner.send_event(retried)
        eventually(lambda: retried["id"] in shop.ask("heard", service="payments"), otherwise=process.says)
        foreigner.send_event(slow)
    eventually(lambda: shop.ask("gateway_calls", order_id=slow["subject"]) == ["authorized"], otherwise=process.says)
    assert slow["id"] not in shop.ask("heard", service="payments")

    assert process.end() == 0

    assert slow["id"] in shop.ask("heard", service="payments")
    assert shop.ask("dead_letters", service="payments") == []


@pytest.mark.rabbitmq
@pytest.mark.postgresql
@pytest.mark.parametrize("pool", ["threads", "solo"])
def test_acknowledgements_do_not_wait_for_the_loop_to_wake(shops: dict[str, RunningShop], pool: str) -> None:
    """With one message in hand at a time, each acknowledgement that waits a second or two would show."""
    shop = shops["real"]
    command = [*worker("shipping", pool=pool, concurrency=1), "--prefetch-multiplier", "1"]
    process = shop.run("worker-shipping", command)
    shop.started("worker-shipping")

    def seconds_for(count: int) -> float:
        """From the first sent to the last handled."""
        events = [event("orders.order_cancelled.v1", data={"reason": "customer_request"}) for _ in range(count)]
        with sender(shop) as foreigner:
            begin = time.monotonic()
            for each in events:
                foreigner.send_event(each)
            wanted = {each["id"] for each in events}
            eventually(lambda: wanted <= set(shop.ask("heard", service="shipping")), within=120, otherwise=process.says)
            return time.monotonic() - begin

    alone = min(seconds_for(1) for _ in range(3))  # the first has no acknowledgement to wait for
    together = seconds_for(200) / 200

    assert together < alone * 5
    assert process.end() == 0


@pytest.fixture(scope="module")
def one_worker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningShop]:
    """A shop with one worker for all services."""
    with running_shop(tmp_path_factory.mktemp("one"), FLOWER_BASIC_AUTH="flora:secret") as shop:
        shop.start("relay-orders", "relay-payments", "relay-shipping", "beat")
        shop.run("worker-orders", worker("orders", "payments", "shipping", name="all"))
        shop.started("worker-orders")
        yield shop


def test_one_worker_can_do_all_of_it(one_worker: RunningShop) -> None:
    order = one_worker.place()

    eventually(
        lambda: one_worker.ask("status", order_id=order) == "completed", otherwise=lambda: one_worker.ask("standing")
    )


def test_the_worker_answers_when_it_is_inspected(one_worker: RunningShop) -> None:
    name = f"all@{socket.gethostname()}"
    inspect = [sys.executable, "-m", "celery", "-A", "shop", "inspect"]
    ping = completed([*inspect, "ping", "--json", "--timeout", "30", "-d", name], one_worker.environment)

    assert ping.returncode == 0, ping.stderr
    assert json.loads(ping.stdout) == {name: {"ok": "pong"}}


def test_flower_refuses_who_gives_wrong_passwords_again_and_again(one_worker: RunningShop) -> None:
    (port,) = free_ports(1)
    flower = one_worker.run(
        "flower-login",
        [sys.executable, "-m", "celery", "-A", "shop", "flower", "--address=127.0.0.1", f"--port={port}"],
    )

    def status(password: str | None) -> int:
        request = urllib.request.Request(f"http://127.0.0.1:{port}/api/workers")
        if password is not None:
            request.add_header("Authorization", "Basic " + base64.b64encode(f"flora:{password}".encode()).decode())
        try:
            with urllib.request.urlopen(request, timeout=10) as answer:
                return int(answer.status)
        except HTTPError as error:
            return error.code

    def answers() -> bool:
        try:
            return status(None) == 401
        except URLError:
            return False

    eventually(answers, otherwise=flower.says)
    assert [status("wrong") for _ in range(4)] == [401] * 4
    assert status("secret") == 200, "with the right one, what was wrong before is forgotten"
    assert [status("wrong") for _ in range(6)] == [401] * 5 + [429]
    assert status("secret") == 429
    assert status(None) == 429
    assert flower.end() == 0


def test_flower_shows_workers_and_reactions_by_name_and_retries_as_such(one_worker: RunningShop) -> None:
    (port,) = free_ports(1)
    login = base64.b64encode(b"flora:secret").decode()
    one_worker.run(
        "flower", [sys.executable, "-m", "celery", "-A", "shop", "flower", "--address=127.0.0.1", f"--port={port}"]
    )

    def shown(what: str) -> dict[str, Any]:
        request = urllib.request.Request(
            f"http://127.0.0.1:{port}/api/{what}", headers={"Authorization": f"Basic {login}"}
        )
        try:
            with urllib.request.urlopen(request, timeout=10) as response:
                found: dict[str, Any] = json.load(response)
                return found
        except URLError:
            return {}  # not up yet

    def states(task: str) -> set[str]:
        return {seen["state"] for seen in shown("tasks").values() if seen["name"] == task}

    eventually(lambda: any(name.startswith("all@") for name in shown("workers")), otherwise=one_worker["flower"].says)
    one_worker.place()
    one_worker.place("tok_down")

    eventually(lambda: states("payments.authorize_payment") >= {"SUCCESS", "RETRY"}, otherwise=lambda: shown("tasks"))
    eventually(lambda: states("shipping.dispatch_shipment") == {"SUCCESS"}, otherwise=lambda: shown("tasks"))
