"""Admin pages for the tables every service has: outbox and inbox (dead letters: see ``letter_pages``).

Base classes. A service's ``admin.py`` registers them for its own tables, so that it decides who may see what.
"""

import json
from collections.abc import Iterable
from typing import Any, ClassVar
from uuid import UUID

from django.contrib import admin
from django.db.models import Model, QuerySet
from django.http import HttpRequest
from django.urls import reverse
from django.utils.html import format_html
from django.utils.safestring import SafeString
from django.utils.translation import gettext_lazy as _

from choreography.models import Outbox

#: Bytes of a body that are shown; and of one that is no text, where each takes three characters.
_SHOWN, _SHOWN_AS_HEX = 64 * 1024, 1024


def number(order_id: UUID) -> str:
    """An order's id as people say it: its last eight digits."""
    return order_id.hex[-8:].upper()


class ReadOnlyAdmin(admin.ModelAdmin):  # type: ignore[type-arg]
    """Rows that only the machine writes. Whoever has the view permission may look."""

    actions_on_top = True
    list_per_page = 50
    show_full_result_count = False

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        return False


class AboutOrderAdmin(ReadOnlyAdmin):
    """Rows with a ``subject``, the order they are about."""

    subject_model: ClassVar[type[Model] | None] = None
    """The service's own table that has the order's id as its key, to link to."""

    @admin.display(description=_("order number"), ordering="subject")
    def about(self, row: Any) -> SafeString | str:
        if row.subject is None or self.subject_model is None:
            return number(row.subject) if row.subject else "-"
        meta = self.subject_model._meta
        link = reverse(f"admin:{meta.app_label}_{meta.model_name}_change", args=[row.subject])
        return format_html('<a href="{}">{}</a>', link, number(row.subject))


class PublishedFilter(admin.SimpleListFilter):
    """What is on the broker, and what still waits to be."""

    title = _("published")
    parameter_name = "published"

    def lookups(self, request: HttpRequest, model_admin: Any) -> Iterable[tuple[str, Any]]:
        return [("yes", _("Yes")), ("waiting", _("Still waiting"))]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        if self.value() is None:
            return queryset
        return queryset.filter(published_at__isnull=self.value() == "waiting")


class OutboxAdmin(AboutOrderAdmin):
    """What the service has announced."""

    list_display = ("position", "event_type", "about", "sequence", "announced_at", "published")
    list_display_links = ("position", "event_type")
    list_filter = (PublishedFilter, "announced_at", "event_type")
    search_fields = ("=event_id", "=subject")
    search_help_text = _("An event's id or an order's id.")
    fields = (
        "position",
        "event_type",
        "event_id",
        "about",
        "subject",
        "sequence",
        "caused_by",
        "announced_at",
        "published",
        "body_shown",
    )
    readonly_fields = fields

    @admin.display(description=_("published"), ordering="published_at")
    def published(self, row: Outbox) -> Any:
        return row.published_at or _("still waiting")

    @admin.display(description=_("body"))
    def body_shown(self, row: Outbox) -> SafeString:
        return readable(row.body.encode())


class InboxAdmin(AboutOrderAdmin):
    """What the service has heard and acted upon."""

    list_display = ("event_type", "about", "reaction", "attempts", "handled_at")
    list_filter = ("handled_at", "reaction")
    search_fields = ("=event_id", "=subject")
    search_help_text = _("An event's id or an order's id.")
    fields = ("event_type", "event_id", "about", "subject", "reaction", "attempts", "handled_at")
    readonly_fields = fields


def readable(body: bytes) -> SafeString:
    """Bytes as people can read them: JSON indented, other text as it is, anything else in hexadecimal."""
    limit = _SHOWN
    try:
        # What is cut off may cut a character in two.
        text = body[:limit].decode(errors="strict" if len(body) <= limit else "ignore")
    except UnicodeDecodeError:
        limit = _SHOWN_AS_HEX
        text = body[:limit].hex(" ")
    shown = as_it_is(indented(text))
    if len(body) > limit:
        return format_html("{}<p>{}</p>", shown, _("and %d bytes more") % (len(body) - limit))
    return shown


def as_it_is(text: str) -> SafeString:
    """Text with its line breaks. JSON may escape half characters that HTML can't hold: they stay escaped."""
    return format_html("<pre>{}</pre>", text.encode(errors="backslashreplace").decode() or "-")


def indented(text: str) -> str:
    """JSON with line breaks; anything else as it is."""
    try:
        return json.dumps(json.loads(text), indent=2, ensure_ascii=False)
    except (ValueError, RecursionError):
        return text
