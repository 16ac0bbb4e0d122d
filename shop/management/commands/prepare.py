"""``manage.py prepare``: databases, topology, administrator and catalogue. Safe to repeat."""

import json
from argparse import ArgumentParser
from dataclasses import asdict
from typing import Any

from django.core.management.base import BaseCommand, CommandError
from django.utils.translation import gettext as _
from django.utils.translation import ngettext

from shop.preparation import CannotPrepare, admin_password_file, prepare


class Command(BaseCommand):
    help = (
        "Migrates every database, declares the topology on the broker, creates the admin account and the catalogue "
        "if they are missing. Safe to repeat."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--json", action="store_true", help="print the result as JSON")
        parser.add_argument(
            "--wait", type=float, default=10.0, metavar="SECONDS", help="how long to wait for the broker (10)"
        )

    def handle(self, *args: Any, wait: float, **options: Any) -> None:
        try:
            prepared = prepare(wait)
        except CannotPrepare as error:
            raise CommandError(str(error)) from error
        if options["json"]:
            self.stdout.write(json.dumps(asdict(prepared)))
            return
        if prepared.admin_password:
            self.stdout.write(
                _("Created the account %(user)s with the password %(password)s (kept in %(file)s).")
                % {
                    "user": prepared.admin_user,
                    "password": prepared.admin_password,
                    "file": admin_password_file(),
                }
            )
        if added := prepared.products_added:
            self.stdout.write(
                ngettext("Put %d product into the catalogue.", "Put %d products into the catalogue.", added) % added
            )
        self.stdout.write(_("Databases and broker are ready."))
