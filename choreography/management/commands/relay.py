"""``manage.py relay orders``: move a service's committed events from its outbox to the broker until stopped."""

import signal
import threading
from argparse import ArgumentParser
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from choreography.core import liveness, metrics
from choreography.core.conf import conf
from choreography.core.garbage_collection import freeze_imports
from choreography.outbox import relay
from choreography.storage.migrations import Unmigrated, refuse_unmigrated


class Command(BaseCommand):
    help = "Publishes a service's committed events to the broker, until SIGTERM."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("service", help="the service whose outbox to empty")

    def handle(self, *args: Any, service: str, **options: Any) -> None:
        if service not in conf().services:
            raise CommandError(f"{service} is no service of this process. There are {', '.join(conf().services)}.")
        try:
            refuse_unmigrated([service])
        except Unmigrated as error:
            raise CommandError(str(error)) from error
        stop = threading.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: stop.set())
        liveness.forget(f"relay-{service}")
        metrics.start()
        freeze_imports()
        relay.run(service, stop)
        liveness.forget(f"relay-{service}")
