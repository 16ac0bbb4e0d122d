"""``manage.py dead_letters``: what is parked, why, and everything a person can do about it.

Exit codes: 0 done; 1 it was refused, would fail or was stopped; 2 there is no such service, dead letter or command; 130
following a group was interrupted (Ctrl-C, SIGTERM): it goes on without.
"""

import json
import signal
import sys
import threading
from argparse import ArgumentParser
from base64 import b64encode
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import Any

from django.core.management.base import CommandError

from choreography.core.conf import conf
from choreography.core.errors import PublishRefused, Transient
from choreography.dead_letters import actions, redrives
from choreography.dead_letters.actions import By
from choreography.dead_letters.dry_runs import DryRun, dry_run
from choreography.dead_letters.editing import Refused
from choreography.events.personal import masked_message
from choreography.management.database_command import DatabaseCommand
from choreography.storage.models import DeadLetter, DeadLetterAction, Redrive
from choreography.storage.tables import ServiceTables

#: Seconds between looks at how a redrive goes, and while the broker is away.
_LOOK, _PAUSE = 0.2, 2.0


class Command(DatabaseCommand):
    help = "What is parked in the services' dead letters, and what can be done about it."

    def add_arguments(self, parser: ArgumentParser) -> None:
        commands = parser.add_subparsers(dest="subcommand", required=True, metavar="COMMAND")

        def add(name: str, what: str, do: Callable[..., None], *arguments: str) -> None:
            command = commands.add_parser(name, help=what, description=what)
            command.set_defaults(do=do)
            for argument in arguments:
                _ARGUMENTS[argument](command)

        by = ("--by", "--why")
        add("list", "what is parked, grouped by fingerprint", self.show_all, "--service", "--fingerprint", "--json")
        add("show", "one dead letter, with its history", self.show, "service", "number", "--personal", "--json")
        add("dry-run", "what sending it again would do", self.try_out, "service", "number", "--personal", "--json", *by)
        add("retry", "send dead letters again", self.retry, "service", "numbers", *by)
        group = "send all of one fingerprint again: one, then five, then fifty at a time"
        add("retry-group", group, self.retry_group, "service", "fingerprint", "--rate", *by)
        add("stop", "send no more of a group", self.stop, "service", "fingerprint", *by)
        add("edit", "send a dead letter again with another body", self.edit, "service", "number", "--body", *by)
        add("discard", "nothing is to come of dead letters; say --why", self.discard, "service", "numbers", *by)

    def handle(self, *args: Any, do: Callable[..., None], service: str | None, **options: Any) -> None:
        if service is not None and service not in conf().services:
            raise CommandError(
                f"{service} is no service of this process. There are {', '.join(conf().services)}.", returncode=2
            )
        by = By(options.pop("by", None) or actions.operating_system_user(), options.pop("why", None) or "")
        try:
            do(service=service, by=by, **options)
        except (actions.NotParked, actions.NoReason, PublishRefused, Refused, redrives.CannotStart) as refusal:
            raise CommandError(str(refusal)) from refusal
        except Transient as down:
            raise CommandError(f"The broker did not take it, so it stays parked. Try again later. ({down})") from down

    def show_all(self, *, service: str | None, fingerprint: str | None, as_json: bool, **options: Any) -> None:
        services = conf().services if service is None else [service]
        if fingerprint is not None:
            self._show_dead_letters(services, fingerprint, as_json)
            return
        found = [(each, group) for each in services for group in actions.groups(each)]
        if as_json:
            self._print([{"service": each} | asdict(group) for each, group in found])
            return
        for each, group in found:
            where = f" at {group.location}" if group.location else ""
            late = f" ({group.overdue} without an outcome for long)" if group.overdue else ""
            again = f", {group.sent_again} sent again{late}" if group.sent_again else ""
            self.stdout.write(
                f"{each} {group.fingerprint} {group.reaction or 'unusable message'}: {group.error}{where}"
            )
            self.stdout.write(
                f"  {group.parked} parked{again}; first {_time(group.first_seen)}, last {_time(group.last_seen)}"
            )

    def _show_dead_letters(self, services: Sequence[str], fingerprint: str, as_json: bool) -> None:
        found = [
            (each, dead_letter) for each in services for dead_letter in actions.open_dead_letters(each, fingerprint)
        ]
        if as_json:
            names = ("state", "subject", "event_id", "message", "attempts", "parked_at")
            self._print(
                [
                    {"service": each, "number": dead_letter.pk} | {name: getattr(dead_letter, name) for name in names}
                    for each, dead_letter in found
                ]
            )
            return
        for each, dead_letter in found:
            self.stdout.write(
                f"{each} {dead_letter.pk} {dead_letter.state} about {dead_letter.subject or 'unknown'}: "
                f"{dead_letter.message}"
            )

    def show(self, *, service: str, number: int, personal: bool, as_json: bool, **options: Any) -> None:
        found = _as_dict(_dead_letter(service, number), is_whole=personal)
        if as_json:
            self._print(found)
            return
        history, texts = found.pop("history"), {name: found.pop(name) for name in ("traceback", "body")}
        for name, value in found.items():
            if value not in (None, ""):
                self.stdout.write(f"{name}: {value}")
        for name, text in texts.items():
            self.stdout.write(f"{name}:\n{text}")
        for line in history:
            self.stdout.write(" ".join(str(line[name]) for name in _TOLD if line[name]))

    def try_out(self, *, service: str, number: int, by: By, personal: bool, as_json: bool, **options: Any) -> None:
        found = dry_run(_dead_letter(service, number), by)
        if not personal:
            found = found.masked()
        if as_json:
            self._print(asdict(found))
        else:
            self._print_dry_run(found)
        if not found.is_promising:
            raise SystemExit(1)

    def retry(self, *, service: str, numbers: list[int], by: By, **options: Any) -> None:
        chosen = [_dead_letter(service, number) for number in numbers]
        with actions.to_the_broker(service) as publisher:
            for dead_letter in chosen:
                actions.send_again(dead_letter, publisher, by)
                self.stdout.write(f"{dead_letter.pk} sent again")

    def retry_group(self, *, service: str, fingerprint: str, rate: float, by: By, **options: Any) -> None:
        started = redrives.start(service, fingerprint, by, rate)
        with _until_interrupted() as interrupted:
            ended = self._follow(service, started, interrupted)
        if ended.state == Redrive.State.RUNNING:
            self.stderr.write(f"The redrive continues. To stop it: manage.py dead_letters stop {service} {fingerprint}")
            raise SystemExit(130)
        if ended.state == Redrive.State.STOPPED:
            raise CommandError(ended.note)

    def stop(self, *, service: str, fingerprint: str, by: By, **options: Any) -> None:
        under_way = redrives.running(service, fingerprint).first()
        if under_way is None:
            raise CommandError(f"{fingerprint} is not being sent again.")
        redrives.stop(under_way, by)
        self.stdout.write(f"{fingerprint} stopped")

    def edit(self, *, service: str, number: int, body: str, by: By, **options: Any) -> None:
        dead_letter = _dead_letter(service, number)
        try:
            new = sys.stdin.buffer.read() if body == "-" else Path(body).read_bytes()
        except OSError as error:
            raise CommandError(f"The new body can't be read: {error}", returncode=2) from error
        actions.edit(dead_letter, new, by)
        self.stdout.write(f"{number} changed and sent again")

    def discard(self, *, service: str, numbers: list[int], by: By, **options: Any) -> None:
        for dead_letter in [_dead_letter(service, number) for number in numbers]:
            actions.discard(dead_letter, by)
            self.stdout.write(f"{dead_letter.pk} discarded")

    def _follow(self, service: str, followed: Redrive, interrupted: threading.Event) -> Redrive:
        """Advance a redrive and print its progress until it ends or is interrupted."""
        told = None
        while followed.state == Redrive.State.RUNNING and not interrupted.is_set():
            try:
                with actions.to_the_broker(service) as publisher:
                    while followed.state == Redrive.State.RUNNING and not interrupted.is_set():
                        followed = redrives.advance(followed, publisher)
                        how = redrives.progress(followed)
                        if how != told:
                            self.stdout.write(
                                f"step {followed.step + 1}: {how.sent} sent, {how.resolved} took effect, "
                                f"{how.pending} without an outcome yet, {how.left} left"
                            )
                            told = how
                        if followed.state == Redrive.State.RUNNING:
                            interrupted.wait(_LOOK)
            except Transient as down:
                self.stderr.write(f"The broker can't be reached; the redrive continues when it can. ({down})")
                interrupted.wait(_PAUSE)
        return followed

    def _print_dry_run(self, found: DryRun) -> None:
        self.stdout.write(str(found.outcome.label))
        if found.calls:
            self.stdout.write(f"it would call {found.calls['method']} of the {found.calls['system']}:")
            for name, value in found.calls["arguments"].items():
                self.stdout.write(f"  {name}: {value}")
        if found.error:
            self.stdout.write(found.traceback or found.error)
        for change in found.changes:
            self.stdout.write(f"{change.row} {change.what}:")
            for name, (old, new) in change.fields.items():
                self.stdout.write(f"  {name}: {old} -> {new}")
        for statement in found.statements:
            self.stdout.write(f"changes rows that can't be shown: {statement}")
        for event in found.announces:
            self.stdout.write(f"announces {event['type']}: {json.dumps(event['data'])}")

    def _print(self, found: Any) -> None:
        self.stdout.write(json.dumps(found, indent=2, default=_plain))


_ARGUMENTS: dict[str, Callable[[ArgumentParser], object]] = {
    "service": lambda command: command.add_argument("service", help="the service that parked it"),
    "number": lambda command: command.add_argument("number", type=int, help="the dead letter's number"),
    "numbers": lambda command: command.add_argument("numbers", type=int, nargs="+", help="the dead letters' numbers"),
    "fingerprint": lambda command: command.add_argument("fingerprint", help="as list shows it"),
    "--service": lambda command: command.add_argument("--service", help="of this service only"),
    "--fingerprint": lambda command: command.add_argument("--fingerprint", help="the open dead letters of this group"),
    "--json": lambda command: command.add_argument("--json", action="store_true", dest="as_json", help="for programs"),
    "--personal": lambda command: command.add_argument(
        "--personal", action="store_true", help="with personal data; without it, what contracts mark as such is ***"
    ),
    "--by": lambda command: command.add_argument("--by", help="who does it (you)"),
    "--why": lambda command: command.add_argument("--why", help="kept in the dead letter's history"),
    "--body": lambda command: command.add_argument("--body", required=True, metavar="FILE", help="- for stdin"),
    "--rate": lambda command: command.add_argument(
        "--rate", type=float, default=redrives.RATE, help=f"dead letters per second ({redrives.RATE:.0f})"
    ),
}

#: What ``show`` tells of each line of the history, in this order.
_TOLD = ("at", "who", "what", "outcome", "detail", "why")


def _dead_letter(service: str, number: int) -> DeadLetter:
    dead_letter: DeadLetter | None = ServiceTables(service).dead_letters.filter(pk=number).first()
    if dead_letter is None:
        raise CommandError(
            f"{service} has no dead letter {number}. See manage.py dead_letters list --service {service}.",
            returncode=2,
        )
    return dead_letter


def _as_dict(dead_letter: Any, *, is_whole: bool) -> dict[str, Any]:
    """A dead letter as ``show --json`` prints it."""

    def body(name: str, value: bytes) -> dict[str, str]:
        if is_whole:
            return _bytes(name, value)
        return {name: masked_message(dead_letter.event_type, bytes(value).decode(errors="replace"))}

    found = {field.name: getattr(dead_letter, field.name) for field in dead_letter._meta.fields if field.name != "body"}
    lines = dead_letter.actions.order_by("pk")
    return found | body("body", dead_letter.body) | {"history": [_line(line, body) for line in lines]}


def _line(line: DeadLetterAction, body: Callable[[str, bytes], dict[str, str]]) -> dict[str, Any]:
    found = {name: getattr(line, name) for name in ("at", "who", "what", "why", "outcome", "detail", "ended_at")}
    for name in ("old_body", "new_body"):
        if getattr(line, name) is not None:
            found |= body(name, getattr(line, name))
    return found


def _bytes(name: str, value: bytes) -> dict[str, str]:
    """As text, or where it is none in base64 under a name that says so."""
    try:
        return {name: bytes(value).decode()}
    except UnicodeDecodeError:
        return {name: "", f"{name}_base64": b64encode(bytes(value)).decode()}


def _plain(value: Any) -> str:
    return _time(value) if isinstance(value, datetime) else str(value)


def _time(moment: datetime) -> str:
    return moment.isoformat(timespec="seconds")


@contextmanager
def _until_interrupted() -> Iterator[threading.Event]:
    """An event that Ctrl-C and SIGTERM set."""
    interrupted = threading.Event()
    signals = (signal.SIGINT, signal.SIGTERM)
    before = [signal.signal(number, lambda *_: interrupted.set()) for number in signals]
    try:
        yield interrupted
    finally:
        for number, handler in zip(signals, before, strict=True):
            signal.signal(number, handler)
