"""When a process is really ready: the web answers, Flower sees the workers, the others have shown a sign of life."""

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
from shop.launcher import Launcher, LaunchFailed, Tell

#: Seconds all processes together get to become ready, and between looks.
LIMIT, _PAUSE = 90.0, 0.1


class Flower:
    """Flower as other programs see it: its HTTP API.

    Args:
        url: its address, with a slash at the end.
    """

    def __init__(self, url: str, user: str, password: str) -> None:
        self.url = url
        self._login = base64.b64encode(f"{user}:{password}".encode()).decode()

    def workers(self) -> dict[str, bool]:
        """Every worker it knows, ``orders@host``, and whether it is alive.

        Raises:
            OSError: it can't be reached, or answers with an error.
        """
        known: dict[str, bool] = self._get("api/workers?status=1")
        return known

    def tasks(self) -> list[dict[str, Any]]:
        """The tasks it has seen: ``name``, ``state``, ``retried`` (a time, or null) and more.

        Raises:
            OSError: it can't be reached, or answers with an error.
        """
        return list(self._get("api/tasks").values())

    def _get(self, path: str) -> Any:
        request = Request(self.url + path, headers={"Authorization": f"Basic {self._login}"})  # noqa: S310
        with urlopen(request, timeout=5) as answer:  # noqa: S310 (our own address)
            return json.load(answer)


def forget_signs(names: Iterable[str]) -> None:
    """Remove signs of life from an earlier run. Call it before the processes are started."""
    for name in names:
        liveness.forget(name)


def wait_until_ready(launcher: Launcher, home: str, flower: Flower, tell: Tell) -> bool:
    """Tell of each process when it has become ready. False: everything is being stopped instead.

    Raises:
        LaunchFailed: one of them takes too long; with what it said last.
    """
    waiting = {name: _probe(name, home, flower) for name in launcher.names}
    start = time.monotonic()
    while waiting and not launcher.stopping.is_set():
        not_ready = {name: why for name, probe in waiting.items() if (why := probe())}
        seconds = time.monotonic() - start
        for name in [name for name in waiting if name not in not_ready]:
            tell(_("%(seconds)5.1f s  %(name)s is ready") % {"seconds": seconds, "name": name})
            del waiting[name]
        if waiting and seconds > LIMIT:
            name = next(iter(waiting))
            raise LaunchFailed(
                _("%(name)s did not come up within %(limit)g s: %(why)s. It said last:")
                % {"name": name, "limit": LIMIT, "why": not_ready[name]}
                + launcher.last_words(name)
            )
        launcher.stopping.wait(_PAUSE)
    return not waiting


def _probe(name: str, home: str, flower: Flower) -> Callable[[], str]:
    """A function that says why the process is not ready; empty: it is."""
    match name:
        case "web":
            return lambda: _answer(f"{home}healthz")
        case "flower":
            return lambda: _answer(f"{flower.url}healthcheck") or _sees_workers(flower)
        case _:
            return lambda: "" if liveness.age(name) is not None else _("it has shown no sign of life")


def _answer(url: str) -> str:
    try:
        with urlopen(url, timeout=5):  # noqa: S310 (our own address)
            return ""
    except HTTPError as error:
        with error:
            return f"HTTP {error.code} {error.reason}"
    except OSError as error:
        return str(error)


def _sees_workers(flower: Flower) -> str:
    """Flower shows what it has heard from the workers since it began to listen, and nothing from before."""
    try:
        seen = {name.partition("@")[0] for name, is_alive in flower.workers().items() if is_alive}
    except OSError as error:
        return str(error)
    missing = sorted(set(settings.SERVICES) - seen)
    return _("it does not see %s yet") % ", ".join(missing) if missing else ""
