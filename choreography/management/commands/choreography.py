"""``manage.py choreography map|contracts|doctor|release``: the map, the contracts, what is wrong, refused events."""

import json
from argparse import ArgumentParser
from dataclasses import asdict
from pathlib import Path
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError

from choreography.core.conf import conf
from choreography.events import compatibility, event_map
from choreography.operations import doctor
from choreography.outbox import relay


class Command(BaseCommand):
    help = (
        "map: who reacts to what. contracts: have they changed, and whom does it break. doctor: what is wrong. "
        "release: publish again what the broker has refused."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        commands = parser.add_subparsers(dest="subcommand", required=True, metavar="map|contracts|doctor|release")
        for name, what in (("map", "the page docs/choreography.md"), ("contracts", "the JSON Schemas in contracts/")):
            command = commands.add_parser(name, help=what)
            how = command.add_mutually_exclusive_group()
            how.add_argument("--write", action="store_true", help="write to disk")
            how.add_argument("--check", action="store_true", help="fail if what is on disk does not fit the code")
        command = commands.add_parser("doctor", help="look for what is wrong with the running installation")
        command.add_argument("--json", action="store_true", help="print a list of findings")

        command = commands.add_parser("release", help="have the relay publish again what the broker has refused")
        command.add_argument("service", help="whose events")

    def handle(self, *args: Any, subcommand: str, **options: Any) -> None:
        getattr(self, subcommand)(**options)

    def map(self, *, write: bool, check: bool, **options: Any) -> None:
        path = Path(settings.BASE_DIR) / "docs" / "choreography.md"
        if write:
            path.parent.mkdir(exist_ok=True)
            path.write_text(event_map.page())
        elif not check:
            self.stdout.write(event_map.page(), ending="")
        elif not path.exists() or path.read_text() != event_map.page():
            raise CommandError(f"{path.name} is out of date. Run manage.py choreography map --write.")

    def contracts(self, *, write: bool, check: bool, **options: Any) -> None:
        if write:
            for path in compatibility.write():
                self.stdout.write(f"wrote {path.name}")
        found = list(compatibility.faults())
        if found:
            raise CommandError("\n".join(found))

    def doctor(self, *, json: bool, **options: Any) -> None:
        found = list(doctor.findings())
        if json:
            self.stdout.write(_dumps([asdict(finding) for finding in found]))
        else:
            for finding in found:
                self.stdout.write(f"{finding.about}: {finding.what}. Remedy: {finding.remedy}.")
        if found:
            raise SystemExit(1)

    def release(self, *, service: str, **options: Any) -> None:
        if service not in conf().services:
            raise CommandError(f"{service} is no service of this process. There are {', '.join(conf().services)}.")
        self.stdout.write(f"{relay.release_refused(service)} event(s) will be published again")


def _dumps(rows: list[dict[str, str]]) -> str:
    return json.dumps(rows, indent=2)
