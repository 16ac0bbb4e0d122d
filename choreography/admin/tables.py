"""Admin pages for the outbox and the inbox of every service, and what read-only pages have in common.

These tables grow to tens of millions of rows. A list reads the newest by an index; nothing it does by itself reads all.
"""

import json
from collections.abc import Iterable
from functools import cache, cached_property
from typing import Any
from uuid import UUID

from django.apps import apps
from django.contrib import admin
from django.contrib.admin.utils import quote
from django.core.paginator import Paginator
from django.db.models import Model, Q, QuerySet
from django.http import HttpRequest, HttpResponse
from django.urls import reverse
from django.utils.html import format_html
from django.utils.safestring import SafeString
from django.utils.translation import gettext_lazy as _

from choreography.events.personal import masked_message
from choreography.storage.models import Outbox
from choreography.storage.rows import SubjectQuerySet

#: Bytes of a body that are shown; and of one that is no text, where each takes three characters.
_SHOWN, _SHOWN_AS_HEX = 64 * 1024, 1024
#: Rows of a list that are counted and can be paged through: more than anybody does.
LISTED = 10_000


def short(subject: str) -> str:
    """A subject as people say it: the last eight digits of a UUID, any other as it is."""
    try:
        return UUID(subject).hex[-8:].upper()
    except ValueError:
        return subject


class FirstPaginator(Paginator):  # type: ignore[type-arg]
    """The first rows of many."""

    @cached_property
    def count(self) -> int:
        """How many there are, at most ``LISTED``."""
        first: Any = self.object_list[:LISTED]
        return int(first.count())


class NewestValuesFilter(admin.AllValuesFieldListFilter):
    """Offers the values that a field has in the newest rows. To find all, every row would have to be looked at."""

    def __init__(
        self, field: Any, request: HttpRequest, params: Any, model: Any, model_admin: Any, field_path: str
    ) -> None:
        super().__init__(field, request, params, model, model_admin, field_path)
        newest = model_admin.get_queryset(request).order_by("-pk")[:LISTED]
        self.lookup_choices: Any = sorted(set(newest.values_list(field_path, flat=True)))


class ReadOnlyAdmin(admin.ModelAdmin):  # type: ignore[type-arg]
    """Rows that only the machine writes. Whoever has the view permission may look."""

    actions_on_top = True
    list_per_page = 50
    show_full_result_count = False
    show_facets = admin.ShowFacets.NEVER

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        return False

    def changelist_view(self, request: HttpRequest, extra_context: dict[str, Any] | None = None) -> HttpResponse:
        """The list, which says so where it ends before the table does."""
        response = super().changelist_view(request, extra_context)
        context = getattr(response, "context_data", None) or {}
        if self.paginator is FirstPaginator and "cl" in context and context["cl"].result_count == LISTED:
            context["subtitle"] = _("Only the first %d are listed. Search, or filter, for others.") % LISTED
        return response


class MessageAdmin(ReadOnlyAdmin):
    """Rows with the ``body`` of a message, whole for those with ``view_personal_<model>``, and masked for others."""

    def sees_personal(self, request: HttpRequest) -> bool:
        """Whether a person may see what contracts mark as personal."""
        return bool(request.user.has_perm(f"{self.opts.app_label}.view_personal_{self.opts.model_name}"))

    def get_object(self, request: HttpRequest, object_id: str, from_field: str | None = None) -> Any:
        """The row, which knows what of it may be shown."""
        row = super().get_object(request, object_id, from_field)
        if row is not None:
            row.is_whole = self.sees_personal(request)
        return row

    @admin.display(description=_("body"))
    def body_shown(self, row: Any) -> SafeString:
        body = row.body.encode() if isinstance(row.body, str) else bytes(row.body)
        if row.is_whole:
            return readable(body)
        needed = f"{self.opts.app_label}.view_personal_{self.opts.model_name}"
        return format_html(
            "{}<p>{}</p>",
            preformatted(indented(masked_message(row.event_type, body.decode(errors="replace")))),
            _("Personal data is masked: seeing it needs the permission %s.") % needed,
        )


class AboutSubjectAdmin(ReadOnlyAdmin):
    """Rows with a ``subject``, linked to the row that the service itself has of it."""

    @admin.display(description=_("about"), ordering="subject")
    def about(self, row: Any) -> SafeString | str:
        model = subject_model(self.opts.app_label)
        if not row.subject or model is None:
            return short(row.subject) if row.subject else "-"
        link = reverse(f"admin:{model._meta.app_label}_{model._meta.model_name}_change", args=[quote(row.subject)])
        return format_html('<a href="{}">{}</a>', link, short(row.subject))


@cache
def subject_model(app_label: str) -> type[Model] | None:
    """The model of a service whose keys are subjects, if it has an admin page."""
    models = apps.get_app_config(app_label).get_models()
    keyed = (model for model in models if isinstance(model._default_manager.all(), SubjectQuerySet))
    return next((model for model in keyed if admin.site.is_registered(model)), None)


class PublishedFilter(admin.SimpleListFilter):
    """What is on the broker, and what still waits to be."""

    title = _("published")
    parameter_name = "published"

    def lookups(self, request: HttpRequest, model_admin: Any) -> Iterable[tuple[str, Any]]:
        return [("yes", _("Yes")), ("waiting", _("Still waiting")), ("refused", _("Refused by the broker"))]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        match self.value():
            case "yes":
                return queryset.exclude(published_at=None)
            case "waiting":
                return queryset.filter(published_at=None, refusal="")
            case "refused":
                return queryset.filter(published_at=None).exclude(refusal="")
        return queryset


class EventAdmin(AboutSubjectAdmin):
    """Events. Found by an id, and by nothing that has no index."""

    paginator = FirstPaginator
    search_fields = ("event_id", "subject")
    search_help_text = _("An event's id or a subject.")

    def get_search_results(
        self, request: HttpRequest, queryset: QuerySet[Any], search_term: str
    ) -> tuple[QuerySet[Any], bool]:
        """By a whole event id or a whole subject; anything else finds nothing."""
        wanted = search_term.strip()
        if not wanted:
            return queryset, False
        try:
            event_id = UUID(wanted)
        except ValueError:
            return queryset.filter(subject=wanted), False
        return queryset.filter(Q(event_id=event_id) | Q(subject__in={wanted, str(event_id)})), False


class OutboxAdmin(MessageAdmin, EventAdmin):
    """What the service has announced."""

    list_display = ("position", "event_type", "about", "sequence", "announced_at", "published")
    list_display_links = ("position", "event_type")
    list_filter = (PublishedFilter, "announced_at", ("event_type", NewestValuesFilter))
    sortable_by = ("position", "about")
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
        "refusal",
        "body_shown",
    )
    readonly_fields = fields

    @admin.display(description=_("published"), ordering="published_at")
    def published(self, row: Outbox) -> Any:
        return row.published_at or (_("refused by the broker") if row.refusal else _("still waiting"))


class InboxAdmin(EventAdmin):
    """What the service has heard and acted upon."""

    list_display = ("event_type", "about", "reaction", "attempts", "handled_at")
    list_filter = ("handled_at", ("reaction", NewestValuesFilter))
    sortable_by = ("about",)
    fields = ("event_type", "event_id", "about", "subject", "reaction", "attempts", "handled_at")
    readonly_fields = fields


def rows_with_id(text: str, rows: QuerySet[Any], *columns: str) -> QuerySet[Any] | None:
    """The rows that have an id in one of these columns; ``None`` if the text is no id."""
    try:
        wanted = UUID(text.strip())
    except ValueError:
        return None
    return rows.filter(Q.create([(column, wanted) for column in columns], connector=Q.OR))


def readable(body: bytes) -> SafeString:
    """Bytes as people can read them: JSON indented, other text as it is, anything else in hexadecimal."""
    limit = _SHOWN
    try:
        # What is cut off may cut a character in two.
        text = body[:limit].decode(errors="strict" if len(body) <= limit else "ignore")
    except UnicodeDecodeError:
        limit = _SHOWN_AS_HEX
        text = body[:limit].hex(" ")
    shown = preformatted(indented(text))
    if len(body) > limit:
        return format_html("{}<p>{}</p>", shown, _("and %d bytes more") % (len(body) - limit))
    return shown


def preformatted(text: str) -> SafeString:
    """Text with its line breaks."""
    return format_html("<pre>{}</pre>", _whole(text) or "-")


def indented(text: str) -> str:
    """JSON with line breaks; anything else as it is."""
    try:
        return _whole(json.dumps(json.loads(text), indent=2, ensure_ascii=False))
    except (ValueError, RecursionError):
        return text


def _whole(text: str) -> str:
    """JSON may escape half characters that HTML can't hold: they stay escaped."""
    return text.encode(errors="backslashreplace").decode()
