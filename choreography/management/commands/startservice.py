"""``manage.py startservice billing --reacts-to kitchen.dish_cooked.v1 --announces bill_written``: begin a service."""

import re
from argparse import ArgumentParser
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from django.apps import apps
from django.core.management.base import CommandError
from django.core.management.templates import TemplateCommand

import choreography
from choreography.core.conf import conf
from choreography.core.errors import ContractError
from choreography.events.messages import parse_type, published

_TEMPLATE = Path(choreography.__file__).parent / "service_template"
_NAME = re.compile(r"[a-z][a-z0-9_]*")


@dataclass(frozen=True)
class EventName:
    """An event type, with the names that the service's code derives from it."""

    event_type: str
    """``kitchen.dish_cooked.v1``"""

    @property
    def service(self) -> str:
        return parse_type(self.event_type).service

    @property
    def name(self) -> str:
        """``dish_cooked``"""
        return parse_type(self.event_type).name

    @property
    def class_name(self) -> str:
        """``DishCooked``"""
        return "".join(word.capitalize() for word in self.name.split("_"))


class Command(TemplateCommand):
    help = "Write a Django app with the events, reactions, tables and tests of a new service."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("name", help="the app: billing, or myproject.apps.billing inside a package")
        parser.add_argument(
            "--reacts-to", nargs="+", default=[], metavar="EVENT", help="event types, such as kitchen.dish_cooked.v1"
        )
        parser.add_argument(
            "--announces",
            nargs="+",
            default=[],
            metavar="EVENT",
            help="events of its own, such as bill_written or billing.bill_written.v1",
        )

    def handle(  # type: ignore[override]
        self, name: str, reacts_to: list[str], announces: list[str], **options: Any
    ) -> None:
        *packages, service = name.split(".")
        folder = Path(*packages, service)
        _check_name(name, service, folder)
        heard = [_event_heard(event_type, service) for event_type in reacts_to]
        announced = [_event_announced(event_type, service) for event_type in announces]
        for events in (heard, announced):
            _refuse_repeated_names([event.name for event in events])

        if packages:
            folder.mkdir()
        super().handle(
            "app",
            service,
            str(folder) if packages else None,
            **options,
            template=str(_TEMPLATE),
            extensions=["py"],
            files=[],
            exclude=[],
            path=name,
            heard=heard,
            announced=announced,
            announced_sorted=sorted(announced, key=lambda event: event.class_name),
            facts=heard or announced,
            title=service.replace("_", " ").capitalize(),
        )
        if options["verbosity"]:
            self.stdout.write(_next_steps(name, service, folder))


def _check_name(name: str, service: str, folder: Path) -> None:
    if not all(_NAME.fullmatch(part) for part in name.split(".")):
        raise CommandError(f"{name} is no name for a service: use lower-case letters, digits and underscores.")
    if service in apps.app_configs:
        raise CommandError(f"There is an app labelled {service} already. Choose another name.")
    if not folder.parent.is_dir():
        raise CommandError(f"There is no folder {folder.parent} here for {name}. Create the package first.")
    if folder.exists():
        raise CommandError(f"{folder} exists already. Choose another name.")


def _event_heard(event_type: str, service: str) -> EventName:
    try:
        publisher = parse_type(event_type).service
    except ContractError as error:
        raise CommandError(f"--reacts-to: {error}") from None
    if publisher == service:
        raise CommandError(f"--reacts-to: {event_type} is a fact of {service} itself. A service calls its own code.")
    if publisher in conf().services and event_type not in published:
        near = get_close_matches(event_type, published, n=3, cutoff=0.4)
        raise CommandError(
            f"--reacts-to: {publisher} does not announce {event_type}." + (f" Near: {', '.join(near)}." if near else "")
        )
    return EventName(event_type)


def _event_announced(given: str, service: str) -> EventName:
    event_type = given if "." in given else f"{service}.{given}.v1"
    try:
        publisher = parse_type(event_type).service
    except ContractError as error:
        raise CommandError(f"--announces: {error}") from None
    if publisher != service:
        raise CommandError(f"--announces: {event_type} is a fact of {publisher}. {service} announces only its own.")
    return EventName(event_type)


def _refuse_repeated_names(names: list[str]) -> None:
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        raise CommandError(
            f"Several of the events are named {', '.join(repeated)}. Name one, and add the others later."
        )


def _next_steps(name: str, service: str, folder: Path) -> str:
    return f"""\
{folder} is written. To take it into use:
1. Add "{name}" to INSTALLED_APPS and "{service}" to CHOREOGRAPHY["SERVICES"] in the settings.
2. Run: manage.py makemigrations {service}
3. Run: manage.py choreography contracts --write
4. Run its tests: manage.py test {name}
5. Start its relay and its worker: manage.py relay {service}; celery worker -Q {service} -n {service}@%h"""
