"""One run of the whole shop on this machine: what ``up`` and ``demo`` have in common."""

from collections.abc import Callable
from dataclasses import dataclass, field

import environ
from django.utils.translation import gettext as _

from shop.launcher import HOST, Launcher, LaunchFailed, Tell, free_port, is_free, procfile, require_free
from shop.preparation import data_dir, flower_password
from shop.readiness import Flower, forget_signs, wait_until_ready

env = environ.Env()


@dataclass(frozen=True)
class Addresses:
    """Where people reach the shop, and Flower's login."""

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


def ports_asked_for() -> tuple[int, int]:
    """``WEB_PORT`` and ``FLOWER_PORT``, both free.

    Raises:
        LaunchFailed: one is no port.
        Occupied: one is in use.
    """
    web, flower = _port("WEB_PORT", 8000), _port("FLOWER_PORT", 5555)
    require_free(web, "WEB_PORT")
    require_free(flower, "FLOWER_PORT")
    return web, flower


def ports_available() -> tuple[int, int]:
    """``WEB_PORT`` and ``FLOWER_PORT``, or another where one is in use."""
    asked = _port("WEB_PORT", 8000), _port("FLOWER_PORT", 5555)
    web, flower = (port if is_free(port) else free_port() for port in asked)
    return web, flower


def run(ports: tuple[int, int], story: Callable[[Launcher, Addresses], None], tell: Tell, *, verbose: bool) -> Launcher:
    """Start all processes and, once every one of them is ready, tell ``story``. Returns when they have ended.

    Raises:
        LaunchFailed: a process did not come up, or ended by itself.
        Exception: whatever the story raised.
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
            if wait_until_ready(launcher, addresses.home, addresses.flower_api, tell):
                story(launcher, addresses)
        finally:
            tell(_("Stopping ..."))

    launcher = Launcher(procfile(), environment, data_dir() / "log", tell, verbose=verbose)
    forget_signs(launcher.names)
    launcher.run(begin)
    return launcher


def _port(variable: str, default: int) -> int:
    value = env.str(variable, default="") or str(default)
    if not value.isdecimal() or not 0 < int(value) < 65536:
        raise LaunchFailed(_("%(variable)s is %(value)s, which is no port.") % {"variable": variable, "value": value})
    return int(value)
