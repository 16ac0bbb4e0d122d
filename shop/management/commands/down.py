"""``manage.py down``: stop a shop that ``manage.py up`` has started, also what is left of one that was killed."""

from typing import Any

from django.core.management.base import BaseCommand

from shop import leftovers
from shop.preparation import data_dir


class Command(BaseCommand):
    help = "Stops the shop that 'up' has started with this DATA_DIR, and what is left of one that was killed."
    requires_system_checks = ()

    def handle(self, *args: Any, **options: Any) -> None:
        if not leftovers.end_all(data_dir()):
            self.stdout.write("Nothing runs.")
