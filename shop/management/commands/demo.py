"""``manage.py demo``: start the whole shop, place five orders, check the result of each, stop."""

import json
import os
import shutil
import sys
import tempfile
import time
from argparse import SUPPRESS, ArgumentParser
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from django.conf import settings
from django.core.exceptions import ValidationError
from django.core.management.base import BaseCommand, CommandError
from django.utils.translation import gettext as _

from shop.environment import env
from shop.launcher import InUse, Launcher, LaunchFailed, exclusive
from shop.preparation import CannotPrepare, data_dir, prepare_data
from shop.running import Addresses, available_ports, run
from shop.secrets import require_secret_key

if TYPE_CHECKING:
    from shop.demo import Report


class Command(BaseCommand):
    help = (
        "Runs all processes, places five sample orders, checks the result of each, and stops. Uses a temporary folder "
        "unless DATA_DIR is set. Uses DATABASE_URL and BROKER_URL if they are set."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument(
            "--json", action="store_true", help="print a report as JSON to stdout, and everything else to stderr"
        )
        parser.add_argument("--temporary", action="store_true", help=SUPPRESS)

    def handle(self, *args: Any, verbosity: int, temporary: bool, **options: Any) -> None:
        require_secret_key()
        if not env.str("DATA_DIR", default=""):
            start_again_in_a_temporary_folder()
        self.out = self.stderr if options["json"] else self.stdout
        self.out.style_func = None
        start = time.monotonic()
        try:
            with exclusive(data_dir()):
                report = self.run_shop(verbose=verbosity > 1)
        except KeyboardInterrupt:
            raise CommandError(_("Stopped before anything was started."), returncode=130) from None
        except InUse as error:
            raise CommandError(str(error), returncode=2) from error
        except (CannotPrepare, LaunchFailed) as error:
            raise CommandError(str(error)) from error
        except ValidationError as error:
            raise CommandError(_("The orders can't be placed: %s") % " ".join(error.messages)) from error
        if report is None:
            raise CommandError(_("Stopped before the orders had ended."), returncode=130)
        if report.ok and temporary:
            shutil.rmtree(data_dir())
        seconds = round(time.monotonic() - start, 1)
        if options["json"]:
            self.stdout.write(json.dumps({"ok": report.ok, "seconds": seconds, **asdict(report)}))
        self.conclude(report, seconds)

    def run_shop(self, *, verbose: bool) -> "Report | None":
        """Start all processes, place the samples and wait for their end, stop all processes."""
        if missing := set(settings.ALL_SERVICES) - set(settings.SERVICES) - {"journal"}:
            raise CannotPrepare(_("The demo needs every service. SHOP_SERVICES lacks %s.") % ", ".join(sorted(missing)))
        from shop import demo, samples  # they import every service, and the check above has found them

        if not samples.can_be_placed():
            raise CannotPrepare(_("The demo needs the sandboxes: unset PAYMENT_GATEWAY and CARRIER."))
        self.print_line(_("Preparing databases and broker ..."))
        prepare_data()
        reports: list[Report | None] = []

        def main(launcher: Launcher, addresses: Addresses) -> None:
            self.print_line(_("Placing five orders. Watch them at %s") % f"{addresses.home}  {addresses.flower}")
            reports.append(demo.play(launcher, addresses.flower_api, self.print_line))

        self.print_line(_("Starting the processes ..."))
        run(available_ports(), main, self.print_line, verbose=verbose)
        return reports[0] if reports else None

    def conclude(self, report: "Report", seconds: float) -> None:
        """Print the result of each order.

        Raises:
            CommandError: a check failed.
        """
        for order in report.orders:
            self.print_line(
                f"  {_('wrong') if order.faults else _('ok'):<6} {order.number}  {order.title}: {order.status}"
            )
            for fault in order.faults:
                self.print_line(f"         - {fault}")
        for fault in report.faults:
            self.print_line(f"  {_('wrong'):<6} {fault}")
        if not report.ok:
            raise CommandError(
                _("Not all is as it must be. The logs of the processes are in %s") % (data_dir() / "log")
            )
        self.print_line(_("Every order ended as it must. %s s") % seconds)

    def print_line(self, line: str) -> None:
        self.out.write(line)
        self.out.flush()


def start_again_in_a_temporary_folder() -> None:
    """Replace this process by one whose DATA_DIR is a temporary folder. The folder is kept if the demo fails."""
    sys.stdout.flush()
    sys.stderr.flush()
    environment = os.environ | {"DATA_DIR": tempfile.mkdtemp(prefix="shop-demo-")}
    os.execve(sys.executable, [sys.executable, *sys.argv, "--temporary"], environment)  # noqa: S606
