"""A worker whose queue is deleted just when it has connected: ``python -m tests.deaf QUEUE celery -A shop worker``."""

import sys
import time
from typing import Any

from celery.worker import loops as celery_loops
from kombu import Connection

loops: Any = celery_loops  # the stubs lack what is private
_drain = loops._quick_drain


def delete_once(queue: str) -> None:
    """Delete the queue before the first look at the connection, so that this look meets the broker's cancellation."""

    def drain(connection: Any, timeout: float = 0.1) -> None:
        loops._quick_drain = _drain
        with Connection(connection.as_uri(include_password=True)) as other:
            channel: Any = other.default_channel
            channel.queue_delete(queue)
        time.sleep(0.5)  # the broker's word is then waiting in the socket
        _drain(connection, timeout)

    loops._quick_drain = drain


if __name__ == "__main__":
    delete_once(sys.argv[1])
    sys.argv = sys.argv[2:]
    from celery.__main__ import main

    sys.exit(main())
