"""Admin pages for the tables every service has: outbox, inbox and dead letters.

Base classes. A service's ``admin.py`` registers them for its own tables, so that it decides who may see what.
"""

import json
from collections.abc import Iterable
from typing import Any, ClassVar
from uuid import UUID

from django.contrib import admin, messages
from django.contrib.admin.utils import unquote
from django.core.exceptions import PermissionDenied
from django.db.models import Model, QuerySet
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect
from django.urls import URLPattern, path, reverse
from django.utils.decorators import method_decorator
from django.utils.html import format_html
from django.utils.safestring import SafeString
from django.utils.text import Truncator
from django.utils.translation import gettext_lazy as _
from django.utils.translation import ngettext
from django.views.decorators.http import require_POST

from choreography.errors import Transient
from choreography.letters import NotParked, send_again, to_the_broker
from choreography.models import DeadLetter, Outbox

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


class DeadLetterAdmin(AboutOrderAdmin):
    """What the service could not handle, with a way to try it again once the cause is mended."""

    change_form_template = "choreography/dead_letter.html"
    list_display = ("__str__", "state", "shortly", "about", "attempts", "parked_at")
    list_filter = ("state", "reaction", "error")
    show_facets = admin.ShowFacets.ALWAYS
    search_fields = ("=event_id", "=subject", "event_type")
    search_help_text = _("An event's id, an order's id or a part of an event type.")
    readonly_fields = (
        "state",
        "event_type",
        "event_id",
        "about",
        "subject",
        "reaction",
        "error",
        "message",
        "attempts",
        "parked_at",
        "resolved_at",
        "traceback_shown",
        "content_type",
        "headers_shown",
        "body_shown",
        "key",
    )
    fieldsets = (
        (None, {"fields": ("state", "reaction", "about", "subject", "attempts", "parked_at", "resolved_at")}),
        (_("Why"), {"fields": ("error", "message", "traceback_shown")}),
        (
            _("The message"),
            {"fields": ("event_type", "event_id", "content_type", "headers_shown", "body_shown", "key")},
        ),
    )
    actions = ("send_letters_again",)

    @admin.display(description=_("message"))
    def shortly(self, letter: DeadLetter) -> str:
        return Truncator(letter.message).chars(100)

    @admin.display(description=_("traceback"))
    def traceback_shown(self, letter: DeadLetter) -> SafeString:
        return as_it_is(letter.traceback)

    @admin.display(description=_("headers"))
    def headers_shown(self, letter: DeadLetter) -> SafeString:
        return as_it_is(json.dumps(letter.headers, indent=2, sort_keys=True, ensure_ascii=False))

    @admin.display(description=_("body"))
    def body_shown(self, letter: DeadLetter) -> SafeString:
        return readable(bytes(letter.body))

    def has_retry_permission(self, request: HttpRequest) -> bool:
        return request.user.has_perm(f"{self.opts.app_label}.retry_deadletter")

    @admin.action(description=_("Send again"), permissions=["retry"])
    def send_letters_again(self, request: HttpRequest, letters: QuerySet[DeadLetter]) -> None:
        sent = 0
        try:
            with to_the_broker(self.opts.app_label) as publisher:
                for letter in letters.order_by("pk"):
                    try:
                        send_again(letter, publisher)
                        sent += 1
                    except NotParked as refusal:
                        self.message_user(request, str(refusal), messages.WARNING)
        except Transient as down:
            self.message_user(
                request,
                _("The broker did not take it, so the rest stays parked. Try again later. (%s)") % down,
                messages.ERROR,
            )
        if sent:
            text = ngettext("%d letter was sent again.", "%d letters were sent again.", sent)
            self.message_user(request, text % sent, messages.SUCCESS)

    def get_urls(self) -> list[URLPattern]:
        name = f"{self.opts.app_label}_{self.opts.model_name}_send_again"
        view = self.admin_site.admin_view(self.send_again_view)
        return [path("<path:object_id>/send-again/", view, name=name), *super().get_urls()]

    @method_decorator(require_POST)
    def send_again_view(self, request: HttpRequest, object_id: str) -> HttpResponse:
        """The button on a letter's own page."""
        if not (self.has_view_permission(request) and self.has_retry_permission(request)):
            raise PermissionDenied
        self.send_letters_again(request, self.get_queryset(request).filter(pk=unquote(object_id)))
        return redirect(f"admin:{self.opts.app_label}_{self.opts.model_name}_change", object_id)

    def render_change_form(self, request: HttpRequest, context: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        letter: DeadLetter = kwargs["obj"]
        can_retry = self.has_retry_permission(request) and letter.state == DeadLetter.State.PARKED
        return super().render_change_form(request, context | {"can_retry": can_retry}, *args, **kwargs)


def readable(body: bytes) -> SafeString:
    """Bytes as people can read them: JSON indented, other text as it is, anything else in hexadecimal."""
    limit = _SHOWN
    try:
        # What is cut off may cut a character in two.
        text = body[:limit].decode(errors="strict" if len(body) <= limit else "ignore")
    except UnicodeDecodeError:
        limit = _SHOWN_AS_HEX
        text = body[:limit].hex(" ")
    shown = as_it_is(_indented(text))
    if len(body) > limit:
        return format_html("{}<p>{}</p>", shown, _("and %d bytes more") % (len(body) - limit))
    return shown


def as_it_is(text: str) -> SafeString:
    """Text with its line breaks. JSON may escape half characters that HTML can't hold: they stay escaped."""
    return format_html("<pre>{}</pre>", text.encode(errors="backslashreplace").decode() or "-")


def _indented(text: str) -> str:
    try:
        return json.dumps(json.loads(text), indent=2, ensure_ascii=False)
    except (ValueError, RecursionError):
        return text
