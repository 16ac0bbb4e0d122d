"""Readiness of processes: the web process responds, Flower sees the workers, the others have shown that they run."""

import base64
import json
import time
from collections.abc import Callable, Iterable
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

from django.conf import settings
from django.utils.translation import gettext as _

from choreography.core import liveness
from shop.launcher import Launcher, LaunchFailed, PrintLine

#: Seconds until all processes must be ready, and between two checks.
LIMIT, _PAUSE = 90.0, 0.1


class Flower:
    """A client of Flower's HTTP API.

    Args:
        url: Flower's URL, with a slash at the end.
    """

    def __init__(self, url: str, user: str, password: str) -> None:
        self.url = url
        self._login = base64.b64encode(f"{user}:{password}".encode()).decode()

    def workers(self) -> dict[str, bool]:
        """Every worker it knows (``orders@host``), and whether the worker is online.

        Raises:
            OSError: Flower can't be reached, or responds with an error.
        """
        known: dict[str, bool] = self._get("api/workers?status=1")
        return known

    def tasks(self) -> list[dict[str, Any]]:
        """The tasks it knows: ``name``, ``state``, ``retried`` (a time, or null) and more.

        Raises:
            OSError: Flower can't be reached, or responds with an error.
        """
        return list(self._get("api/tasks").values())

    def _get(self, path: str) -> Any:
        request = Request(self.url + path, headers={"Authorization": f"Basic {self._login}"})  # noqa: S310
        with urlopen(request, timeout=5) as response:  # noqa: S310 (our own address)
            return json.load(response)


def reset_liveness(names: Iterable[str]) -> None:
    """Remove the liveness files of an earlier run. Call it before the processes are started."""
    for name in names:
        liveness.forget(name)


def wait_until_ready(launcher: Launcher, home: str, flower: Flower, print_line: PrintLine) -> bool:
    """Print a line for each process that becomes ready. Returns False if the launcher stops before all are.

    Raises:
        LaunchFailed: a process is not ready within ``LIMIT`` seconds. The message has its last output.
    """
    waiting = {name: _probe(name, home, flower) for name in launcher.names}
    start = time.monotonic()
    while waiting and not launcher.stopping.is_set():
        not_ready = {name: why for name, probe in waiting.items() if (why := probe())}
        seconds = time.monotonic() - start
        for name in [name for name in waiting if name not in not_ready]:
            print_line(_("%(seconds)5.1f s  %(name)s is ready") % {"seconds": seconds, "name": name})
            del waiting[name]
        if waiting and seconds > LIMIT:
            name = next(iter(waiting))
            raise LaunchFailed(
                _("%(name)s is not ready after %(limit)g s: %(why)s. Its last output:")
                % {"name": name, "limit": LIMIT, "why": not_ready[name]}
                + launcher.last_output(name)
            )
        launcher.stopping.wait(_PAUSE)
    return not waiting


def _probe(name: str, home: str, flower: Flower) -> Callable[[], str]:
    """A function that returns why the process is not ready, or an empty string if it is."""
    match name:
        case "web":
            return lambda: _http_error(f"{home}healthz")
        case "flower":
            return lambda: _http_error(f"{flower.url}healthcheck") or _missing_workers(flower)
        case _:
            return lambda: "" if liveness.age(name) is not None else _("it has not reported that it runs")


def _http_error(url: str) -> str:
    """Why a GET request fails; empty if it succeeds."""
    try:
        with urlopen(url, timeout=5):  # noqa: S310 (our own address)
            return ""
    except HTTPError as error:
        with error:
            return f"HTTP {error.code} {error.reason}"
    except OSError as error:
        return str(error)


def _missing_workers(flower: Flower) -> str:
    """Names the services whose worker Flower does not show. It shows no events from before it was started."""
    try:
        seen = {name.partition("@")[0] for name, is_alive in flower.workers().items() if is_alive}
    except OSError as error:
        return str(error)
    missing = sorted(set(settings.SERVICES) - seen)
    return _("it does not see %s yet") % ", ".join(missing) if missing else ""
