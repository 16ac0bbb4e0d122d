"""``manage.py choreography map|contracts|check|doctor|release|send_again``: what there is, what is wrong, remedies."""

import json
from argparse import ArgumentParser
from collections.abc import Sequence
from dataclasses import asdict
from datetime import timedelta
from pathlib import Path
from typing import Any

from django.conf import settings
from django.core.management.base import CommandError

from choreography.broker.publisher import BrokerPublisher
from choreography.core.conf import conf
from choreography.core.errors import ContractError, PublishRefused, Transient
from choreography.events import compatibility, event_map
from choreography.events.bundles import bundle
from choreography.events.bundles import faults as faults_with
from choreography.events.changes import compare, contracts_at, in_markdown, in_order
from choreography.events.examples import examples_at, lost
from choreography.events.flow_checks import Flaw, flaws
from choreography.events.readers import all_readers
from choreography.management.database_command import DatabaseCommand
from choreography.operations import doctor
from choreography.operations.asyncapi import document
from choreography.operations.doctor import Finding
from choreography.operations.retiring import obstacles
from choreography.operations.unheard import AFTER, SINCE, send, unheard
from choreography.outbox import relay

#: How far back lost events are looked for, at most.
_MOST_HOURS = 10 * 366 * 24


class Command(DatabaseCommand):
    help = (
        "map: who reacts to what. contracts: have they changed, and whom does it break. check: what is wrong with the "
        "flows by the code alone. doctor: what is wrong with the running installation. "
        "release: publish again what the broker has refused. send_again: what a service should have heard and has not."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        commands = parser.add_subparsers(dest="subcommand", required=True, metavar="SUBCOMMAND")
        for name, what in (("map", "the page docs/choreography.md"), ("contracts", "the JSON Schemas in contracts/")):
            command = commands.add_parser(name, help=what)
            how = command.add_mutually_exclusive_group()
            how.add_argument("--write", action="store_true", help="write to disk")
            how.add_argument("--check", action="store_true", help="fail if what is on disk does not fit the code")
            if name == "contracts":
                command.add_argument("action", nargs="?", choices=["check", "export", "retire-check"], default="check")
                command.add_argument(
                    "of", nargs="?", default="", help="of retire-check the event type; of export the file to write"
                )
                command.add_argument(
                    "--against", default="", metavar="REF", help="of check: say what has changed since a commit or tag"
                )
                form = command.add_mutually_exclusive_group()
                form.add_argument("--json", action="store_true", help="of --against: for programs")
                form.add_argument("--markdown", action="store_true", help="of --against: a table for a merge request")
                command.add_argument(
                    "--readers",
                    action="append",
                    default=[],
                    metavar="DIR|GIT-URL@REF",
                    help="more readers, from a folder or from contracts/readers of a repository",
                )
                command.add_argument(
                    "--publishers",
                    action="append",
                    default=[],
                    type=Path,
                    metavar="FILE",
                    help="hold what is read here against contracts of other repositories, as export has written them",
                )
        command = commands.add_parser(
            "check",
            help="look in the code for circles, events nobody reads or announces, failures that nothing takes back, "
            "flows without an end, and two events of one meaning; fail if there are any",
        )
        command.add_argument("--json", action="store_true", help="print a list of findings")
        command = commands.add_parser(
            "asyncapi", help="print the events and who reads them as an AsyncAPI 3.0 document"
        )
        command.add_argument("--service", default="", help="only what this service announces and reads")
        command.add_argument("--title", default="Events", help="title of the document (default: Events)")
        command.add_argument("--document-version", default="1.0.0", help="its version (default: 1.0.0)")

        command = commands.add_parser("doctor", help="look for what is wrong with the running installation")
        command.add_argument("--json", action="store_true", help="print a list of findings")

        command = commands.add_parser("release", help="have the relay publish again what the broker has refused")
        command.add_argument("service", help="whose events")

        command = commands.add_parser("send_again", help="send a service the events that did not reach it")
        command.add_argument("service", help="which service")
        command.add_argument("--hours", type=float, default=SINCE.total_seconds() / 3600, help="how far back to look")
        command.add_argument(
            "--after",
            type=float,
            default=AFTER.total_seconds(),
            metavar="SECONDS",
            help="what was published more recently may still be on its way",
        )
        command.add_argument("--dry-run", action="store_true", help="only count them")

    def handle(self, *args: Any, subcommand: str, **options: Any) -> None:
        # ``check`` is a method that every command of Django has.
        getattr(self, "flaws" if subcommand == "check" else subcommand)(**options)

    def map(self, *, write: bool, check: bool, **options: Any) -> None:
        path = Path(settings.BASE_DIR) / "docs" / "choreography.md"
        if write:
            path.parent.mkdir(exist_ok=True)
            path.write_text(event_map.page())
        elif not check:
            self.stdout.write(event_map.page(), ending="")
        elif not path.exists() or path.read_text() != event_map.page():
            raise CommandError(f"{path.name} is out of date. Run manage.py choreography map --write.")

    def contracts(self, *, write: bool, action: str, of: str, readers: list[str], against: str, **options: Any) -> None:
        if write:
            for path in compatibility.write():
                self.stdout.write(f"wrote {path.relative_to(conf().contracts_dir)}")
        if bool(of) != (action != "check"):
            raise CommandError("retire-check takes an event type and export a file; check takes neither.")
        if action == "export":
            try:
                Path(of).write_text(_dumps(bundle()) + "\n")
            except OSError as error:
                raise CommandError(f"{of} can't be written: {error.strerror}.") from error
            return
        if against:
            self._changes(against, readers, json=options["json"], markdown=options["markdown"])
            return
        try:
            if action == "retire-check":
                found = [*obstacles(of, readers)]
            else:
                found = [*compatibility.faults(readers)]
                found += [fault for path in options["publishers"] for fault in faults_with(path)]
        except ContractError as error:
            raise CommandError(str(error)) from error
        if found:
            raise CommandError("\n".join(found))

    def _changes(self, against: str, readers: list[str], *, json: bool, markdown: bool) -> None:
        try:
            now, known, folder = compatibility.current(), all_readers(readers), conf().contracts_dir
            found = in_order(
                [
                    *compare(contracts_at(folder, against), now, known),
                    *lost(examples_at(folder, against), now, known),
                ]
            )
        except ContractError as error:
            raise CommandError(str(error)) from error
        if json:
            self.stdout.write(_dumps([asdict(change) for change in found]))
        elif markdown:
            self.stdout.write(in_markdown(found), ending="")
        else:
            for change in found:
                self.stdout.write(str(change))
        if any(change.level == "breaking" for change in found):
            raise SystemExit(1)

    def asyncapi(self, *, service: str, title: str, document_version: str, **options: Any) -> None:
        try:
            self.stdout.write(_dumps(document(service, title=title, version=document_version)))
        except ContractError as error:
            raise CommandError(str(error)) from error

    def flaws(self, *, json: bool, **options: Any) -> None:
        self._show([*flaws()], json=json)

    def doctor(self, *, json: bool, **options: Any) -> None:
        self._show([*doctor.findings()], json=json)

    def _show(self, found: Sequence[Finding | Flaw], *, json: bool) -> None:
        if json:
            self.stdout.write(_dumps([asdict(finding) for finding in found]))
        else:
            for finding in found:
                self.stdout.write(f"{finding.about}: {finding.what}. Remedy: {finding.remedy}.")
        if found:
            raise SystemExit(1)

    def send_again(self, *, service: str, hours: float, after: float, dry_run: bool, **options: Any) -> None:
        _known(service)
        if not 0 < hours <= _MOST_HOURS or not 0 <= after <= _MOST_HOURS * 3600:
            raise CommandError(
                f"--hours takes a number above 0 and at most {_MOST_HOURS} (ten years), --after seconds from 0 up."
            )
        messages = unheard(service, timedelta(hours=hours), timedelta(seconds=after))
        if dry_run:
            self.stdout.write(f"{sum(1 for _ in messages)} event(s) did not reach {service}")
            return
        publisher = BrokerPublisher()
        try:
            # Before it is told what is missing: what is published from now on reaches a queue that was deleted.
            relay.declare_topology(service)
            sent = send(messages, publisher)
        except (Transient, PublishRefused) as error:
            raise CommandError(
                f"The broker did not confirm: {error}. Run it again: nothing takes effect twice."
            ) from error
        finally:
            publisher.close()
        self.stdout.write(f"{sent} event(s) sent again to {service}")

    def release(self, *, service: str, **options: Any) -> None:
        _known(service)
        self.stdout.write(f"{relay.release_refused(service)} event(s) will be published again")


def _known(service: str) -> None:
    if service not in conf().services:
        raise CommandError(f"{service} is no service of this process. There are {', '.join(conf().services)}.")


def _dumps(document: Any) -> str:
    return json.dumps(document, indent=2)
