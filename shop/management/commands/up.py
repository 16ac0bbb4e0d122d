"""``manage.py up``: the whole shop on this machine, until Ctrl-C."""

from typing import Any

import structlog
from django.conf import settings
from django.core.exceptions import ValidationError
from django.core.management.base import BaseCommand, CommandError
from django.db import InterfaceError, OperationalError, close_old_connections
from django.utils.translation import gettext as _

from shop.environment import env
from shop.launcher import InUse, Launcher, LaunchFailed, exclusive
from shop.preparation import CannotPrepare, Prepared, admin_password_file, data_dir, prepare
from shop.running import Addresses, required_ports, run
from shop.secrets import require_secret_key

log = structlog.get_logger(__name__)

#: Seconds between two queries for new events.
_PAUSE = 0.25


class Command(BaseCommand):
    help = (
        "Prepares databases and broker and runs all processes on 127.0.0.1 until Ctrl-C. Places five sample orders if "
        "there are no orders. Shows warnings and errors of the processes, with -v 2 all of their output."
    )

    def handle(self, *args: Any, verbosity: int, **options: Any) -> None:
        try:
            with exclusive(data_dir()):
                require_secret_key()
                ports = required_ports()
                self.print_line(_("Preparing databases and broker ..."))
                prepared = prepare()
                self.print_line(_("Starting the processes ..."))
                run(ports, lambda *ready: self.main(prepared, *ready), self.print_line, verbose=verbosity > 1)
        except KeyboardInterrupt:
            raise CommandError(_("Stopped before anything was started."), returncode=130) from None
        except InUse as error:
            raise CommandError(str(error), returncode=2) from error
        except (CannotPrepare, LaunchFailed) as error:
            raise CommandError(str(error)) from error
        self.print_line(_("Stopped. Nothing is lost: the next run continues from here."))

    def main(self, prepared: Prepared, launcher: Launcher, addresses: Addresses) -> None:
        """Runs when all processes are ready, until they are stopped."""
        self.print_line(table(prepared, addresses))
        if "orders" in settings.SERVICES:
            self.follow_orders(launcher)

    def follow_orders(self, launcher: Launcher) -> None:
        """Place the sample orders if there are no orders, and print every event of orders from now on."""
        from orders.models import Order  # here: the orders app may not be installed in this process
        from shop import flows, samples

        follower = flows.Follower()
        if not Order.objects.exists() and samples.can_be_placed():
            self.place_samples()
        is_down = False
        while not launcher.stopping.wait(_PAUSE):
            try:
                close_old_connections()
                for line in flows.lines(follower.new_steps()):
                    self.print_line(line)
            except (OperationalError, InterfaceError) as error:
                if not is_down:
                    log.warning("events can't be read", error=type(error).__name__)
                is_down = True
            else:
                is_down = False

    def place_samples(self) -> None:
        """Place the sample orders. If the catalogue has changed so that this is impossible, print why and continue."""
        from shop import samples

        self.print_line(_("There are no orders yet. Placing five, to show what happens:"))
        try:
            orders = samples.place()
        except ValidationError as error:
            self.print_line(_("The orders can't be placed: %s") % " ".join(error.messages))
            return
        for sample, order in zip(samples.SAMPLES, orders, strict=True):
            self.print_line(f"  {order.number}  {sample.title}")

    def print_line(self, line: str) -> None:
        self.stdout.write(line)
        self.stdout.flush()


def table(prepared: Prepared, addresses: Addresses) -> str:
    """URLs and logins, for the terminal."""
    rows = [
        (_("Shop"), addresses.home, ""),
        (_("Admin"), addresses.admin, _admin_login(prepared)),
        (_("Flower"), addresses.flower, _flower_login(addresses)),
        (_("Logs"), str(data_dir() / "log"), ""),
    ]
    lines = [f"  {what:<8}{where:<32}{login}".rstrip() for what, where, login in rows]
    return "\n".join(["", *lines, "", _("Ctrl-C stops everything."), ""])


def _admin_login(prepared: Prepared) -> str:
    if prepared.admin_password:
        return _("%(user)s, password %(password)s (kept in %(file)s)") % {
            "user": prepared.admin_user,
            "password": prepared.admin_password,
            "file": admin_password_file(),
        }
    if admin_password_file().exists():
        return _("%(user)s, password in %(file)s") % {"user": prepared.admin_user, "file": admin_password_file()}
    return _("the administrator's account")


def _flower_login(addresses: Addresses) -> str:
    if env.str("FLOWER_PASSWORD", default=""):
        return _("%s, password: FLOWER_PASSWORD") % addresses.flower_user
    return _("%(user)s, password in %(file)s") % {
        "user": addresses.flower_user,
        "file": data_dir() / "flower-password",
    }
