"""``manage.py alive relay-orders``: exit 0 if that process has shown a sign of life of late. For health checks."""

from argparse import ArgumentParser
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from choreography.core import liveness


class Command(BaseCommand):
    help = "Succeeds if a process (relay-<service>, worker-<service>, beat) has shown a sign of life of late."
    requires_system_checks = []

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("name", help="relay-<service>, worker-<service> or beat")
        parser.add_argument("--within", type=float, default=30.0, metavar="SECONDS", help="how late is late (30)")

    def handle(self, *args: Any, name: str, within: float, **options: Any) -> None:
        age = liveness.age(name)
        if age is None:
            raise CommandError(f"{name} has not shown a sign of life yet.")
        if age > within:
            raise CommandError(f"{name} showed its last sign of life {age:.0f} s ago.")
