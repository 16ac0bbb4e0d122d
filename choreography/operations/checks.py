"""System checks: what would lose or misroute events is found at startup, with the remedy."""

from collections.abc import Iterable
from typing import Any

from django.apps import apps
from django.core.checks import CheckMessage, Error, register

from choreography.core.conf import conf
from choreography.core.errors import ContractError
from choreography.events import versions
from choreography.events.messages import parse_type, published
from choreography.events.readers import all_readers
from choreography.events.registry import Reaction, reactions
from choreography.events.timers import Timer, timers

#: What every service has of its own (see ``models``).
_TABLES = (
    "Outbox",
    "SubjectCounter",
    "Inbox",
    "DeadLetter",
    "DeadLetterAction",
    "Redrive",
    "Retry",
    "Claim",
    "Suspect",
    "Report",
)


@register("choreography")
def check_services(app_configs: Any, **kwargs: Any) -> Iterable[CheckMessage]:
    """Every service has its tables, and every reaction and timer a service."""
    for service in conf().services:
        if service not in apps.app_configs:
            yield Error(
                f"{service} is a service but no installed app.",
                hint="Add it to INSTALLED_APPS.",
                id="choreography.E001",
            )
            continue
        missing = [name for name in _TABLES if name.lower() not in apps.all_models[service]]
        if missing:
            yield Error(
                f"{service} has no {', '.join(missing)}.",
                hint=f"In {service}/models.py subclass them from choreography.storage.models and run makemigrations.",
                id="choreography.E002",
            )
    things: list[Reaction | Timer] = [*reactions(), *timers()]
    for thing in things:
        if thing.service not in conf().services:
            yield Error(
                f"{thing.name} belongs to no service.",
                hint="A reaction or timer lives in a service's own package, named in CHOREOGRAPHY['SERVICES'].",
                id="choreography.E003",
            )


@register("choreography")
def check_contracts(app_configs: Any, **kwargs: Any) -> Iterable[CheckMessage]:
    """Services announce only their own facts, and react only to facts someone announces."""
    for reaction in reactions():
        for event_type in sorted(reaction.announces):
            if parse_type(event_type).service != reaction.service:
                yield Error(
                    f"{reaction.name} declares that it announces {event_type}, a fact of another service.",
                    hint="A service announces only its own facts: define an event of its own.",
                    id="choreography.E004",
                )
        for event_type in reaction.event_types:
            if parse_type(event_type).service in conf().services and event_type not in published:
                yield Error(
                    f"{reaction.name} reacts to {event_type}, which nobody announces.",
                    hint="Check the spelling and the version; manage.py choreography map lists what there is.",
                    id="choreography.E005",
                )
    for event_type, event in published.items():
        undescribed = [name for name, field in event.model_fields.items() if not field.description]
        if undescribed:
            yield Error(
                f"{event_type} does not describe {', '.join(undescribed)}.",
                hint="Give each field a Field(description=...): the contract is read by people.",
                id="choreography.E006",
            )


@register("choreography")
def check_versions(app_configs: Any, **kwargs: Any) -> Iterable[CheckMessage]:
    """Older versions of events can be read."""
    for fault in versions.faults():
        yield Error(f"{fault}.", id="choreography.E010")


@register("choreography")
def check_readers(app_configs: Any, **kwargs: Any) -> Iterable[CheckMessage]:
    """What services elsewhere read can be told: the relay asks whether they take messages with several events."""
    try:
        all_readers()
    except ContractError as error:
        yield Error(f"{error}.", id="choreography.E011")
    for event_type in conf().sent_alone:
        try:
            parse_type(event_type)
        except ContractError as error:
            yield Error(f"SENT_ALONE: {error}.", id="choreography.E012")


@register("choreography")
def check_external_systems(app_configs: Any, **kwargs: Any) -> Iterable[CheckMessage]:
    """Every external system has a client: without one, whatever is to be asked of it would be parked."""
    systems = {reaction.external_system: None for reaction in reactions() if reaction.external_system}
    for fault in filter(None, (system.fault() for system in systems)):
        yield Error(
            f"{fault}.",
            hint="Name a class, or a function that makes the client: package.module.Name.",
            id="choreography.E013",
        )


@register("choreography")
def check_settings(app_configs: Any, **kwargs: Any) -> Iterable[CheckMessage]:
    """The settings can work."""
    rungs = conf().retry_rungs
    if not rungs or list(rungs) != sorted(set(rungs)) or rungs[0] < 1:
        yield Error(
            f"RETRY_RUNGS is {rungs}.",
            hint="Give rising whole seconds, such as (1, 5, 30, 300).",
            id="choreography.E007",
        )
    if not conf().broker_url.startswith(("amqp://", "amqps://", "embedded:///")):
        yield Error(
            "BROKER_URL is neither amqp://, amqps:// nor embedded:///.",
            hint="Event delivery is proven on RabbitMQ and on the embedded broker only.",
            id="choreography.E008",
        )
    for timer in timers():
        if not _is_positive(timer):
            yield Error(
                f"{timer.name} runs every {timer.setting} seconds, which is no positive number.",
                hint=f"Set {timer.setting}.",
                id="choreography.E009",
            )


def _is_positive(timer: Timer) -> bool:
    try:
        return timer.seconds > 0
    except (AttributeError, TypeError, ValueError):  # the setting is missing, or no number
        return False
