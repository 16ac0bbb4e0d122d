"""The choreography as a page: who announces what, and who reacts. Produced from the code, so it can't lie."""

from collections.abc import Iterator

from django.apps import apps

from choreography.events.messages import published
from choreography.events.registry import Reaction, reactions, readers_of
from choreography.events.timers import timers


def page() -> str:
    """The whole page, in Markdown."""
    return "\n".join(_lines()) + "\n"


def _lines() -> Iterator[str]:
    yield "# Choreography map"
    yield ""
    yield "Produced by `manage.py choreography map --write` from the code. Do not edit."
    yield ""
    yield "```mermaid"
    yield "flowchart LR"
    yield from sorted(f"  {service}([{service}])" for service in _services())
    for source, target, events in _arrows():
        yield f'  {source} -- "{"<br>".join(events)}" --> {target}'
    yield "```"
    yield ""
    yield "| event | reaction | may announce |"
    yield "|---|---|---|"
    for event_type in sorted(published):
        readers: list[Reaction | None] = [*readers_of(event_type)] or [None]
        for position, reaction in enumerate(readers):
            name = f"`{event_type}`" if position == 0 else ""
            reacts = reaction.name if reaction else "-"
            announces = ", ".join(sorted(_short(e) for e in reaction.announces)) if reaction else ""
            yield f"| {name} | {reacts} | {announces or '-'} |"
    yield ""
    yield "| timer | every | what it does |"
    yield "|---|---|---|"
    for timer in sorted(timers(), key=lambda timer: timer.name):
        yield f"| {timer.name} | `{timer.setting}` | {_first_line(timer.function.__doc__)} |"
    for service in sorted(_services()):
        yield ""
        yield f"## {service}"
        yield ""
        yield _first_line(_card(service))
        yield ""
        for event_type, event in sorted(published.items()):
            if event.service == service:
                yield f"- `{event_type}`: {_first_line(event.__doc__)}"


def _services() -> set[str]:
    return {event.service for event in published.values()} | {reaction.service for reaction in reactions()}


def _card(service: str) -> str | None:
    """The docstring of a service's package; ``None`` where it is not installed in this process."""
    app = apps.app_configs.get(service)
    return app.module.__doc__ if app else None


def _first_line(docstring: str | None) -> str:
    return (docstring or "").strip().partition("\n")[0]


def _arrows() -> Iterator[tuple[str, str, list[str]]]:
    pairs: dict[tuple[str, str], list[str]] = {}
    for event_type, event in sorted(published.items()):
        for reaction in readers_of(event_type):
            pairs.setdefault((event.service, reaction.service), []).append(_short(event_type))
    for (source, target), events in sorted(pairs.items()):
        yield source, target, events


def _short(event_type: str) -> str:
    """``orders.order_placed.v1`` -> ``order_placed``; later versions keep their number."""
    return event_type.partition(".")[2].removesuffix(".v1")
