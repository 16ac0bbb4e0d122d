"""The admin's table of dead letters. What a person can do about them is in ``dead_letter_views``."""

import difflib
import json
from collections.abc import Callable
from typing import Any, ClassVar

from django.contrib import admin
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse
from django.urls import URLPattern, path, reverse
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString
from django.utils.text import Truncator
from django.utils.translation import gettext_lazy as _

from choreography.admin import dead_letter_views as views
from choreography.admin.tables import AboutSubjectAdmin, MessageAdmin, indented, preformatted
from choreography.dead_letters.actions import is_open, is_overdue
from choreography.events.personal import masked_message
from choreography.storage.models import DeadLetter


class DeadLetterAdmin(MessageAdmin, AboutSubjectAdmin):
    """What the service could not handle. Each thing a person can do about it has a permission of its own."""

    change_form_template = "choreography/dead_letter.html"
    change_list_template = "choreography/dead_letters.html"
    list_display = ("id", "__str__", "state_shown", "shortly", "about", "attempts", "parked_at")
    list_display_links = ("id", "__str__")
    list_filter = ("state", "reaction", "error")
    show_facets = admin.ShowFacets.ALWAYS
    search_fields = ("=event_id", "=subject", "event_type", "=fingerprint")
    search_help_text = _("An event's id, a subject, a fingerprint or a part of an event type.")
    fieldsets: ClassVar[Any] = (
        (
            None,
            {
                "fields": (
                    "id",
                    "state_shown",
                    "reaction",
                    "about",
                    "subject",
                    "attempts",
                    "group_shown",
                    "first_parked_at",
                    "parked_at",
                    "sent_at",
                    "resolved_at",
                )
            },
        ),
        (_("Why"), {"fields": ("error", "location", "message", "traceback_shown")}),
        (_("What was done"), {"fields": ("history_shown",)}),
        (
            _("The message"),
            {"fields": ("event_type", "event_id", "content_type", "headers_shown", "body_shown", "key")},
        ),
    )
    readonly_fields = tuple(field for _, fieldset in fieldsets for field in fieldset["fields"])
    actions = ("send_again",)

    # Permissions

    def may(self, request: HttpRequest, action: str) -> bool:
        """Whether a person may ``dry_run``, ``retry``, ``edit`` or ``discard`` dead letters of this service.

        Whoever edits a message sees all of it.
        """
        if action == "edit" and not self.sees_personal(request):
            return False
        return self.has_view_permission(request) and request.user.has_perm(f"{self.opts.app_label}.{action}_deadletter")

    def has_retry_permission(self, request: HttpRequest) -> bool:
        """For ``send_again``."""
        return self.may(request, "retry")

    # Pages

    @admin.action(description=_("Send again"), permissions=["retry"])
    def send_again(self, request: HttpRequest, queryset: QuerySet[DeadLetter]) -> None:
        views.send_again(self, request, queryset)

    def get_urls(self) -> list[URLPattern]:
        def own(route: str, view: type[views.DeadLettersView], name: str) -> URLPattern:
            page: Callable[..., Any] = self.admin_site.admin_view(view.as_view(model_admin=self))
            return path(route, page, name=f"{self.opts.app_label}_{self.opts.model_name}_{name}")

        return [
            own("groups/", views.GroupsView, "groups"),
            own("groups/<str:fingerprint>/", views.GroupView, "group"),
            own("<path:object_id>/dry-run/", views.DryRunView, "dry_run"),
            own("<path:object_id>/send-again/", views.SendAgainView, "send_again"),
            own("<path:object_id>/edit/", views.EditView, "edit"),
            own("<path:object_id>/discard/", views.DiscardView, "discard"),
            *super().get_urls(),
        ]

    def url(self, name: str, *args: Any) -> str:
        """The address of one of those pages."""
        return reverse(f"admin:{self.opts.app_label}_{self.opts.model_name}_{name}", args=args)

    def render_change_form(
        self, request: HttpRequest, context: dict[str, Any], *args: Any, **kwargs: Any
    ) -> HttpResponse:
        """The dead letter's page, with a button for each thing this person may do."""
        open_now = is_open(kwargs["obj"])
        allowed = {
            "can_dry_run": self.may(request, "dry_run"),
            "can_retry": self.may(request, "retry") and open_now,
            "can_edit": self.may(request, "edit") and open_now,
            "can_discard": self.may(request, "discard") and open_now,
        }
        return super().render_change_form(request, context | allowed, *args, **kwargs)

    # Fields

    @admin.display(description=_("state"), ordering="state")
    def state_shown(self, dead_letter: DeadLetter) -> str:
        overdue = is_overdue(dead_letter)
        return str(_("sent again, no outcome for long") if overdue else dead_letter.get_state_display())

    @admin.display(description=_("message"))
    def shortly(self, dead_letter: DeadLetter) -> str:
        return Truncator(dead_letter.message).chars(100)

    @admin.display(description=_("fingerprint"))
    def group_shown(self, dead_letter: DeadLetter) -> SafeString:
        fingerprint = dead_letter.fingerprint
        link = self.url("group", fingerprint) if fingerprint else self.url("groups")
        return format_html('<a href="{}">{}</a>', link, fingerprint or "-")

    @admin.display(description=_("traceback"))
    def traceback_shown(self, dead_letter: DeadLetter) -> SafeString:
        return preformatted(dead_letter.traceback)

    @admin.display(description=_("headers"))
    def headers_shown(self, dead_letter: DeadLetter) -> SafeString:
        return preformatted(json.dumps(dead_letter.headers, indent=2, sort_keys=True, ensure_ascii=False))

    @admin.display(description=_("history"))
    def history_shown(self, dead_letter: Any) -> SafeString:
        actions = dead_letter.actions.order_by("-pk")
        rows = format_html_join(
            "",
            "<tr><td>{}</td><td>{}</td><td>{}</td><td>{}</td><td>{}</td></tr>",
            (_cells(action, dead_letter) for action in actions),
        )
        if not rows:
            return format_html("<p>{}</p>", _("Nothing yet."))
        heads = format_html_join(
            "", "<th>{}</th>", [[head] for head in (_("at"), _("who"), _("what"), _("why"), _("outcome"))]
        )
        return format_html("<table><thead><tr>{}</tr></thead><tbody>{}</tbody></table>", heads, rows)


def _cells(action: Any, dead_letter: Any) -> tuple[Any, ...]:
    """A line of a dead letter's history."""
    outcome = format_html("{} {}", action.get_outcome_display(), action.detail)
    if action.new_body is not None:
        changes = _diff(action, dead_letter)
        outcome = format_html("{}<details><summary>{}</summary>{}</details>", outcome, _("changes"), changes)
    who = action.who
    if action.redrive_id is not None:
        who = format_html("{} ({} {})", action.who, _("redrive"), action.redrive_id)
    return action.at.strftime("%Y-%m-%d %H:%M:%S"), who, action.get_what_display(), action.why, outcome


def _diff(action: Any, dead_letter: Any) -> SafeString:
    texts = [bytes(body).decode(errors="replace") for body in (action.old_body, action.new_body)]
    if not dead_letter.is_whole:
        texts = [masked_message(dead_letter.event_type, text) for text in texts]
    old, new = (indented(text).splitlines() for text in texts)
    return preformatted("\n".join(list(difflib.unified_diff(old, new, lineterm=""))[2:]))
