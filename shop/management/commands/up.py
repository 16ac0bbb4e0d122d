"""``manage.py up``: the whole shop on this machine, until Ctrl-C."""

from typing import Any

import structlog
from django.conf import settings
from django.core.exceptions import ValidationError
from django.core.management.base import BaseCommand, CommandError
from django.db import InterfaceError, OperationalError, close_old_connections
from django.utils.translation import gettext as _

from shop.launcher import Launcher, LaunchFailed, Occupied, alone
from shop.preparation import CannotPrepare, Prepared, admin_password_file, data_dir, prepare
from shop.running import Addresses, env, ports_asked_for, run

log = structlog.get_logger(__name__)

#: Seconds between looks at what has happened.
_PAUSE = 0.25


class Command(BaseCommand):
    help = (
        "Prepares everything and runs all processes on 127.0.0.1 until Ctrl-C. On an empty orders database five sample "
        "orders are placed. With -v 2 everything the processes say is shown, else their warnings and errors."
    )

    def handle(self, *args: Any, verbosity: int, **options: Any) -> None:
        try:
            with alone(data_dir()):
                ports = ports_asked_for()
                self.tell(_("Preparing databases and broker ..."))
                prepared = prepare()
                self.tell(_("Starting the processes ..."))
                run(ports, lambda *stage: self.story(prepared, *stage), self.tell, verbose=verbosity > 1)
        except KeyboardInterrupt:
            raise CommandError(_("Stopped before anything was started."), returncode=130) from None
        except Occupied as error:
            raise CommandError(str(error), returncode=2) from error
        except (CannotPrepare, LaunchFailed) as error:
            raise CommandError(str(error)) from error
        self.tell(_("Stopped. Nothing is lost: the next run goes on from here."))

    def story(self, prepared: Prepared, launcher: Launcher, addresses: Addresses) -> None:
        """What happens once everything is ready, until it is to stop."""
        self.tell(table(prepared, addresses))
        if "orders" in settings.SERVICES:
            self.follow_orders(launcher)

    def follow_orders(self, launcher: Launcher) -> None:
        """Place the samples if there are no orders, and tell what happens to orders from now on."""
        from orders.models import Order  # here, as orders may not be installed in this process
        from shop import journeys, samples

        follower = journeys.Follower()
        if not Order.objects.exists() and samples.can_be_played():
            self.place_samples()
        is_down = False
        while not launcher.stopping.wait(_PAUSE):
            try:
                close_old_connections()
                for line in journeys.lines(follower.new_steps()):
                    self.tell(line)
            except (OperationalError, InterfaceError) as error:
                if not is_down:
                    log.warning("orders can't be followed", error=type(error).__name__)
                is_down = True
            else:
                is_down = False

    def place_samples(self) -> None:
        """Place the sample orders. If someone changed the catalogue so that it can't be done, say so and go on."""
        from shop import samples

        self.tell(_("There are no orders yet. Placing five, to show what happens:"))
        try:
            orders = samples.place()
        except ValidationError as error:
            self.tell(_("The orders can't be placed: %s") % " ".join(error.messages))
            return
        for sample, order in zip(samples.SAMPLES, orders, strict=True):
            self.tell(f"  {order.number}  {sample.title}")

    def tell(self, line: str) -> None:
        self.stdout.write(line)
        self.stdout.flush()


def table(prepared: Prepared, addresses: Addresses) -> str:
    """Where everything is and how to get in, for a terminal."""
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
