"""Runs the whole shop on this machine: shared by the commands ``up`` and ``demo``."""

from collections.abc import Callable
from dataclasses import dataclass, field

from django.utils.translation import gettext as _

from choreography.core import metrics
from shop.environment import env
from shop.launcher import HOST, Launcher, LaunchFailed, PrintLine, free_port, is_free, procfile, require_free
from shop.preparation import data_dir, flower_password
from shop.readiness import Flower, reset_liveness, wait_until_ready


@dataclass(frozen=True)
class Addresses:
    """The ports of the web process and of Flower, and the login for Flower."""

    web_port: int
    flower_port: int
    flower_user: str
    flower_password: str = field(repr=False)

    @property
    def home(self) -> str:
        return f"http://{HOST}:{self.web_port}/"

    @property
    def admin(self) -> str:
        return f"{self.home}admin/"

    @property
    def flower(self) -> str:
        return f"http://{HOST}:{self.flower_port}/"

    @property
    def flower_api(self) -> Flower:
        return Flower(self.flower, self.flower_user, self.flower_password)


def required_ports() -> tuple[int, int]:
    """``WEB_PORT`` and ``FLOWER_PORT``.

    Raises:
        LaunchFailed: one is not a port number.
        InUse: one is in use.
    """
    web, flower = _port("WEB_PORT", 8000), _port("FLOWER_PORT", 5555)
    require_free(web, "WEB_PORT")
    require_free(flower, "FLOWER_PORT")
    return web, flower


def available_ports() -> tuple[int, int]:
    """``WEB_PORT`` and ``FLOWER_PORT``; a free port instead of one that is in use."""
    preferred = _port("WEB_PORT", 8000), _port("FLOWER_PORT", 5555)
    web, flower = (port if is_free(port) else free_port() for port in preferred)
    return web, flower


def run(
    ports: tuple[int, int], main: Callable[[Launcher, Addresses], None], print_line: PrintLine, *, verbose: bool
) -> Launcher:
    """Start all processes, call ``main`` when all of them are ready, and return when they have ended.

    Raises:
        LaunchFailed: a process did not become ready, or ended by itself.
        Exception: what ``main`` raised.
    """
    user, password = env.str("FLOWER_USER", default="admin"), flower_password()
    addresses = Addresses(*ports, user, password)
    environment = {
        "WEB_PORT": str(addresses.web_port),
        "FLOWER_PORT": str(addresses.flower_port),
        "FLOWER_URL": f"http://127.0.0.1:{addresses.flower_port}/",
        "FLOWER_USER": user,
        "FLOWER_PASSWORD": password,
        "DATA_DIR": str(data_dir()),
    }

    def begin(launcher: Launcher) -> None:
        try:
            if wait_until_ready(launcher, addresses.home, addresses.flower_api, print_line):
                main(launcher, addresses)
        finally:
            print_line(_("Stopping ..."))

    launcher = Launcher(procfile(), environment, data_dir() / "log", print_line, verbose=verbose)
    reset_liveness(launcher.names)
    metrics.forget_dead_processes()
    launcher.run(begin)
    return launcher


def _port(variable: str, default: int) -> int:
    value = env.str(variable, default="") or str(default)
    if not value.isdecimal() or not 0 < int(value) < 65536:
        raise LaunchFailed(
            _("%(variable)s is %(value)s, which is not a port number.") % {"variable": variable, "value": value}
        )
    return int(value)
