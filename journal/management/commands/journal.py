"""``manage.py journal show|backfill|forget``: a flow in the terminal, older flows, forget a person."""

import json
from argparse import ArgumentParser
from dataclasses import asdict
from datetime import datetime
from typing import Any

from django.core.management.base import CommandError
from django.core.serializers.json import DjangoJSONEncoder

from choreography.management.database_command import DatabaseCommand
from journal.backfilling import backfill
from journal.durations import duration
from journal.forgetting import forget
from journal.services import flow_of, story_of
from journal.story import Failure, Handling, Story, Told


class Command(DatabaseCommand):
    help = "show: the story of a flow. backfill: fill in what happened before. forget: remove a person's data."

    def add_arguments(self, parser: ArgumentParser) -> None:
        commands = parser.add_subparsers(dest="subcommand", required=True, metavar="SUBCOMMAND")
        command = commands.add_parser("show", help="print what happened in a flow, what is pending and what is wrong")
        command.add_argument("flow", help="an order's number or id")
        command.add_argument("--json", action="store_true", help="as the page's .json has it")
        command.add_argument("--personal", action="store_true", help="with personal data")
        command = commands.add_parser("backfill", help="read the outboxes and inboxes of this process's services")
        command.add_argument(
            "--again", action="store_true", help="from the beginning, not from where the last run ended"
        )
        command = commands.add_parser("forget", help="remove a person's data from journal, outboxes and dead letters")
        command.add_argument("--email", required=True, help="the person's e-mail address")
        command.add_argument("--json", action="store_true", help="print what was done as JSON")

    def handle(self, *args: Any, subcommand: str, **options: Any) -> None:
        getattr(self, subcommand)(**options)

    def show(self, *, flow: str, json: bool, personal: bool, **options: Any) -> None:
        found = flow_of(flow)
        if found is None:
            raise CommandError(f"The journal has no flow {flow}. Give an order's number or id.")
        story = story_of(found, personal=personal)
        if json:
            self.stdout.write(_dumps(story.as_json()))
            return
        for line in _lines(story):
            self.stdout.write(line)

    def backfill(self, *, again: bool, **options: Any) -> None:
        before = ""

        def progress(service: str, table: str, rows: int) -> None:
            nonlocal before
            about = f"{service} {table.replace('_', ' ')}"
            self.stderr.write(f"{'' if before in ('', about) else chr(10)}\r{about}: {rows} rows", ending="")
            before = about

        rows = backfill(progress, again=again)
        if before:
            self.stderr.write("")
        self.stdout.write(f"{rows} row(s) read")

    def forget(self, *, email: str, json: bool, **options: Any) -> None:
        done = forget(email)
        if json:
            self.stdout.write(_dumps(asdict(done)))
        else:
            self.stdout.write(
                f"{done.flows} flow(s): {done.entries} event(s) in the journal, {done.outbox} in outboxes and "
                f"{done.dead_letters} dead letter(s) changed"
            )
        if done.left:
            raise CommandError(
                f"{done.left} row(s) are left, which unfinished work depends on: events to be published, and "
                "dead letters that may be sent again. Run it again when that is done."
            )


def _lines(story: Story) -> list[str]:
    flow = story.flow
    state = "ended" if flow.ended_at else flow.get_mark_display() if flow.mark else "running"
    lines = [f"{flow.number}  {state}  {flow.pk}"]
    for row in story.rows:
        at: datetime | None
        match row:
            case Told():
                at, service, what = row.entry.announced_at, row.entry.source, f"announced {_event(row)}"
            case Handling():
                at, service, what = row.last_began_at, row.service, f"  {_handling(row)}"
            case Failure():
                at, service, what = row.outcome.ended_at, row.handling.service, f"  {row.text}"
        lines.append(f"{_offset(story, at)}  {service:<9} {what}")
    for expected in story.expected:
        late = "overdue" if expected.is_overdue else "expected"
        lines.append(f"{_offset(story, expected.by)}  {expected.service:<9} {late}: {expected.names}")
    lines += [f"{mark.kind}: {mark.what}. Remedy: {mark.remedy}." for mark in story.standing_marks]
    return lines


def _event(told: Told) -> str:
    return f"{told.name} {told.version} (outbox {duration(told.outbox_seconds)})"


def _handling(handling: Handling) -> str:
    text = f"{handling.name}: {handling.standing}"
    if handling.outcomes:
        text += f" (queue {duration(handling.queue_seconds)}, reaction {duration(handling.handle_seconds)})"
    if handling.standing == "done" and handling.failures:
        text += f", attempt {len(handling.failures) + 1}"
    if handling.error:
        text += f": {handling.error}"
    return text


def _offset(story: Story, at: Any) -> str:
    seconds = (at - story.flow.started_at).total_seconds() if at else None
    return f"+{duration(seconds):>8}" if seconds is not None else " " * 9


def _dumps(value: Any) -> str:
    return json.dumps(value, indent=2, cls=DjangoJSONEncoder)
