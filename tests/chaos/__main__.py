"""``make chaos ORDERS=2000 SEED=1``: prints one JSON report; exit code 0 only if nothing was lost, doubled or violated.

Variables: see ``options``. Exit code 1: an invariant is broken, named on stderr. 2: a variable makes no sense, or a
server's program is not installed.
"""

import os
import signal
import sys
import time
from types import FrameType

from tests import servers
from tests.chaos.options import BadOption, read
from tests.chaos.run import Report, run
from tests.chaos.site import own_servers


def main() -> int:
    try:
        options = read(os.environ)
    except BadOption as error:
        print(error, file=sys.stderr)  # noqa: T201
        return 2
    if missing := servers.missing_programs():
        print(f"Not installed: {', '.join(missing)}. Chaos needs servers of its own.", file=sys.stderr)  # noqa: T201
        return 2
    signal.signal(signal.SIGTERM, _interrupt)
    begun = time.monotonic()

    def tell(text: str) -> None:
        print(f"{time.monotonic() - begun:6.1f} s  {text}", file=sys.stderr, flush=True)  # noqa: T201

    tell(f"{options.orders} orders over {options.duration:.0f} s, seed {options.seed}")
    try:
        with own_servers(options.cluster) as own:
            report = run(options, own, tell)
    except KeyboardInterrupt:
        tell("broken off: nothing is said about the shop")
        return 130
    print(report.to_json())  # noqa: T201
    _sum_up(report)
    return 0 if report.ok else 1


def _sum_up(report: Report) -> None:
    for name, broken in report.broken.items():
        print(f"BROKEN {name}: {broken.count} times, {broken.kind}", file=sys.stderr)  # noqa: T201
        for example in broken.examples:
            print(f"    {example}", file=sys.stderr)  # noqa: T201


def _interrupt(number: int, frame: FrameType | None) -> None:
    """Once: make and timeout each send a SIGTERM, and the second must not interrupt the cleaning up."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
