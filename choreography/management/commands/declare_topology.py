"""``manage.py declare_topology``: make the broker have every exchange and queue the code asks for."""

from argparse import ArgumentParser
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from choreography.broker import topology
from choreography.broker.publisher import broker_errors, connect, explain, reach
from choreography.core.conf import conf


class Command(BaseCommand):
    help = "Declares every exchange and queue of this process's services on the broker. Safe to repeat."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument(
            "--delete",
            action="store_true",
            help="remove them instead, with all messages in them; refused without a CHOREOGRAPHY_NAMESPACE",
        )

    def handle(self, *args: Any, delete: bool, **options: Any) -> None:
        if delete and not conf().namespace:
            raise CommandError(
                "Without a CHOREOGRAPHY_NAMESPACE this would remove the queues, and the messages, of the installation "
                "itself. Set the namespace whose names are to go."
            )
        with connect() as connection:
            try:
                reach(connection)
                (topology.delete if delete else topology.declare)(connection)
            except broker_errors(connection) as error:
                raise CommandError(explain(connection, error)) from error
