"""Filters for the journal's pages."""

from django import template

from journal.durations import duration

register = template.Library()


@register.filter
def as_duration(seconds: float | None) -> str:
    """``{{ 0.012|as_duration }}`` is ``12 ms``."""
    return duration(seconds)


@register.filter
def event_name(event_type: str) -> str:
    """``{{ "orders.order_placed.v1"|event_name }}`` is ``order_placed``."""
    return event_type.split(".")[1] if event_type.count(".") == 2 else event_type
