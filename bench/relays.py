"""The relay alone: how fast waiting events reach the broker, beside py-amqp publishing the same without a database.

Everyone's messages go to the two queues that hear of a placed order. What counts is what the broker has: the rate is
that from the first look at which there is something to the one at which all of it is there.
"""

import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

from bench import sample
from bench.pipeline import Pipeline, connect
from bench.runs import PATIENCE, Running, WrongResult, running, waiting_in
from bench.servers import Servers
from bench.systems import System
from tests.processes import Process, clean_environment

#: Messages between two waits for confirms.
_BATCH = 500
#: A body of about the size of the shop's.
_BODY = json.dumps({"sample": sample.ADDRESS, "padding": "x" * 800})


def relayed_per_second(system: System, servers: Servers, folder: Path, name: str, events: int) -> float:
    """Events per second of the relay of orders, with nobody at work beside it.

    Raises:
        WrongResult: they don't all arrive.
    """
    assert system.relay is not None
    with running(system, servers, folder, name) as it:
        _make_the_queues(it)
        it.placer.place(events)
        it.start(system.relay)
        if system.name == "ours":  # a message may hold several events: what counts is what is marked as confirmed
            return _rate(it.published, it.announced())
        with connect(it.place.broker) as connection:
            return _rate(lambda: waiting_in(connection, "payments")[0], events)


def published_per_second(servers: Servers, folder: Path, name: str, events: int) -> float:
    """Messages per second of py-amqp's pipelined publishing, with confirms."""
    with servers.place(name) as place:
        environment = clean_environment(folder) | {"BROKER_URL": place.broker}
        command = [sys.executable, "-m", "bench.relays", str(events)]
        process = Process("publisher", command, environment, folder / f"{name}.log")
        try:
            with connect(place.broker) as connection:
                return _rate(lambda: waiting_in(connection, "payments")[0], events)
        finally:
            process.kill()


def _make_the_queues(it: Running) -> None:
    workers = [name for name in it.system.commands if name.startswith("worker")]
    it.start(*workers)
    it.wait_until_it_listens()
    for name in workers:
        it.processes.pop(name).kill()


def _rate(count: Callable[[], int], events: int) -> float:
    """Events per second, from the first look at which there is something to the one at which all of it is there."""
    seen: list[tuple[float, int]] = []
    deadline = time.monotonic() + PATIENCE
    while not seen or seen[-1][1] < events:
        if found := count():
            seen.append((time.monotonic(), found))
        if time.monotonic() > deadline:
            raise WrongResult(f"{seen[-1:]} of {events} events reached the broker")
        time.sleep(0.02)
    (start, first), (end, last) = seen[0], seen[-1]
    return (last - first) / (end - start) if end > start else float("nan")


def main(events: int) -> None:
    pipeline = Pipeline(connect(os.environ["BROKER_URL"]))
    pipeline.channel.exchange_declare("order_placed", "fanout", durable=True, auto_delete=False)
    for queue in ("payments", "shipping"):
        pipeline.channel.queue_declare(queue, durable=True, auto_delete=False, arguments={"x-queue-type": "quorum"})
        pipeline.channel.queue_bind(queue, "order_placed")
    for start in range(0, events, _BATCH):
        pipeline.publish([("order_placed", _BODY)] * min(_BATCH, events - start))


if __name__ == "__main__":
    main(int(sys.argv[1]))
