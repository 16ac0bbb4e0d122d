"""When a process is really ready: the web answers, Flower sees the workers, the others have shown a sign of life."""

import base64
import json
import time
from collections.abc import Callable, Iterable
from http import HTTPStatus
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

from django.conf import settings
from django.utils.translation import gettext as _

from choreography import alive
from shop.launcher import HOST, Launcher, LaunchFailed, Tell

#: Seconds all processes together get to become ready, and between looks.
LIMIT, _PAUSE = 90.0, 0.1

Probe = Callable[[], str]
"""Says why a process is not ready; empty: it is."""


class Flower:
    """Flower as other programs see it: its HTTP API."""

    def __init__(self, port: int, user: str, password: str) -> None:
        self.url = f"http://{HOST}:{port}"
        self._login = base64.b64encode(f"{user}:{password}".encode()).decode()

    def workers(self) -> dict[str, bool]:
        """Every worker it knows, ``orders@host``, and whether it is alive.

        Raises:
            OSError: it can't be reached, or answers with an error.
        """
        known: dict[str, bool] = self._get("/api/workers?status=1")
        return known

    def tasks(self) -> list[dict[str, Any]]:
        """The tasks it has seen: ``name``, ``state``, ``retried`` (a time, or null) and more.

        Raises:
            OSError: it can't be reached, or answers with an error.
        """
        return list(self._get("/api/tasks").values())

    def _get(self, path: str) -> Any:
        request = Request(self.url + path, headers={"Authorization": f"Basic {self._login}"})  # noqa: S310
        with urlopen(request, timeout=5) as answer:  # noqa: S310 (our own URL)
            return json.load(answer)


def forget_signs(names: Iterable[str]) -> None:
    """Remove signs of life from an earlier run. Call it before the processes are started."""
    for name in names:
        alive.forget(name)


def wait_until_ready(launcher: Launcher, web_port: int, flower: Flower, tell: Tell) -> bool:
    """Tell of each process when it has become ready. False: everything is being stopped instead.

    Raises:
        LaunchFailed: one of them takes too long; with what it said last.
    """
    waiting = {name: _probe(name, web_port, flower) for name in launcher.names}
    start = time.monotonic()
    while not launcher.stopping.is_set():
        not_ready = {name: why for name, probe in waiting.items() if (why := probe())}
        seconds = time.monotonic() - start
        for name in waiting.keys() - not_ready.keys():
            tell(_("%(seconds)5.1f s  %(name)s is ready") % {"seconds": seconds, "name": name})
        waiting = {name: waiting[name] for name in not_ready}
        if not waiting:
            return True
        if seconds > LIMIT:
            name = next(iter(waiting))
            raise LaunchFailed(
                _("%(name)s did not come up within %(limit)d s: %(why)s. It said last:")
                % {"name": name, "limit": LIMIT, "why": not_ready[name]}
                + launcher.last_words(name)
            )
        launcher.stopping.wait(_PAUSE)
    return False


def _probe(name: str, web_port: int, flower: Flower) -> Probe:
    match name:
        case "web":
            return lambda: _answer(f"http://{HOST}:{web_port}/healthz")
        case "flower":
            return lambda: _sees_workers(flower)
        case _:
            return lambda: "" if alive.age(name) is not None else _("no sign of life")


def _answer(url: str) -> str:
    try:
        with urlopen(url, timeout=5):  # noqa: S310 (our own URL)
            return ""
    except HTTPError as error:
        with error:
            return f"HTTP {error.code} {HTTPStatus(error.code).phrase}: {error.read(200).decode(errors='replace')}"
    except (URLError, OSError) as error:
        return str(error)


def _sees_workers(flower: Flower) -> str:
    """Flower keeps what it hears from workers in memory: what it has not heard it will never show."""
    if why := _answer(f"{flower.url}/healthcheck"):
        return why
    try:
        seen = {name.partition("@")[0] for name, is_alive in flower.workers().items() if is_alive}
    except OSError as error:
        return str(error)
    missing = sorted(set(settings.SERVICES) - seen)
    return _("it does not see %s yet") % ", ".join(missing) if missing else ""
