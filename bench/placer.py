"""Places orders for one system, in a process of its own, as the shop's web process would.

One JSON line in, one out: ``{"count": 100, "rate": 50.0}`` places a hundred, fifty a second (``null``: as fast as it
can), and is answered ``{"ids": [...]}``. ``python -m bench.placer bench.peers.floor``: a module with ``opened``.
"""

import importlib
import json
import subprocess
import sys
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from tests.processes import ROOT

#: Orders placed at a time, for everyone.
THREADS = 4


class Placer:
    """The other end: a running placer."""

    def __init__(self, module: str, environment: Mapping[str, str], log: Path) -> None:
        self._log = log
        with log.open("ab") as errors:
            self._popen = subprocess.Popen(
                [sys.executable, "-m", "bench.placer", module],
                cwd=ROOT,
                env=dict(environment),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
            )

    @property
    def pid(self) -> int:
        return self._popen.pid

    def place(self, count: int, rate: float | None = None) -> list[str]:
        """Place orders and return their ids. ``rate``: orders per second."""
        self.begin(count, rate)
        return self.finish()

    def begin(self, count: int, rate: float | None = None) -> None:
        """Have orders placed, and return at once."""
        assert self._popen.stdin
        self._popen.stdin.write(json.dumps({"count": count, "rate": rate}) + "\n")
        self._popen.stdin.flush()

    def finish(self) -> list[str]:
        """Wait for what was begun. Returns the ids."""
        assert self._popen.stdout
        answer = self._popen.stdout.readline()
        if not answer:
            raise RuntimeError(f"the placer has died:\n{self._log.read_text()[-3000:]}")
        return list(json.loads(answer)["ids"])

    def close(self) -> None:
        """Ask it to end: its input ends."""
        try:
            self._popen.communicate(timeout=10)
        finally:
            self._popen.kill()


def main(module: str) -> None:
    answers, sys.stdout = sys.stdout, sys.stderr
    peer: Any = importlib.import_module(module)
    with peer.opened(), ThreadPoolExecutor(THREADS) as threads:
        for line in sys.stdin:
            order = json.loads(line)
            answers.write(json.dumps({"ids": _place(threads, peer, order["count"], order["rate"])}) + "\n")
            answers.flush()


def _place(threads: ThreadPoolExecutor, peer: Any, count: int, rate: float | None) -> list[str]:
    started = time.monotonic()

    def place(number: int) -> str:
        if rate is not None:
            time.sleep(max(started + number / rate - time.monotonic(), 0))
        return str(peer.place())

    return list(threads.map(place, range(count)))


if __name__ == "__main__":
    main(sys.argv[1])
