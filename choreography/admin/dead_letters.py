"""Admin pages for dead letters: one letter with all that can be done to it, and letters grouped by fingerprint.

A base class. A service's ``admin.py`` registers it for its own table, so that it decides who may do what. Each thing a
person can do has a permission of its own, and leaves a line in the letter's history.
"""

import difflib
import json
from collections.abc import Callable, Iterable
from typing import Any, ClassVar

from django import forms
from django.contrib import admin, messages
from django.contrib.admin.utils import unquote
from django.core.exceptions import PermissionDenied
from django.db.models import Count, Q, QuerySet
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import redirect
from django.template.response import TemplateResponse
from django.urls import URLPattern, path, reverse
from django.utils.decorators import method_decorator
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString
from django.utils.text import Truncator
from django.utils.translation import gettext_lazy as _
from django.utils.translation import ngettext
from django.views.decorators.http import require_POST

from choreography.admin.tables import AboutSubjectAdmin, indented, preformatted, readable
from choreography.core.errors import ChoreographyError, Transient
from choreography.dead_letters import actions, redrives
from choreography.dead_letters.actions import By, NotParked, is_open, is_overdue, send_again, to_the_broker
from choreography.dead_letters.dry_runs import dry_run
from choreography.dead_letters.editing import Refused
from choreography.storage.models import DeadLetter, DeadLetterAction
from choreography.storage.tables import ServiceTables

#: Redrives of a group that are listed, and letters that are discarded with one press.
_REDRIVES, _DISCARDED_AT_ONCE = 10, 1000


class EditForm(forms.Form):
    """Another body for a letter's message."""

    body = forms.CharField(
        label=_("Message"), strip=False, widget=forms.Textarea(attrs={"rows": 30, "cols": 100, "spellcheck": "false"})
    )
    why = forms.CharField(label=_("Why"), required=False, max_length=500, widget=forms.TextInput(attrs={"size": 80}))


class RedriveForm(forms.Form):
    """How fast a group is sent again, and why."""

    rate = forms.FloatField(label=_("Letters per second"), initial=redrives.RATE)
    why = forms.CharField(label=_("Why"), required=False, max_length=500)


class DeadLetterAdmin(AboutSubjectAdmin):
    """What the service could not handle, with what a person can do about it."""

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
    actions = ("send_dead_letters_again",)

    # What is shown

    @admin.display(description=_("state"), ordering="state")
    def state_shown(self, dead_letter: DeadLetter) -> str:
        return str(_("sent again, no answer for long") if is_overdue(dead_letter) else dead_letter.get_state_display())

    @admin.display(description=_("message"))
    def shortly(self, dead_letter: DeadLetter) -> str:
        return Truncator(dead_letter.message).chars(100)

    @admin.display(description=_("fingerprint"))
    def group_shown(self, dead_letter: DeadLetter) -> SafeString:
        link = self._url("group", dead_letter.fingerprint) if dead_letter.fingerprint else self._url("groups")
        return format_html('<a href="{}">{}</a>', link, dead_letter.fingerprint or "-")

    @admin.display(description=_("traceback"))
    def traceback_shown(self, dead_letter: DeadLetter) -> SafeString:
        return preformatted(dead_letter.traceback)

    @admin.display(description=_("headers"))
    def headers_shown(self, dead_letter: DeadLetter) -> SafeString:
        return preformatted(json.dumps(dead_letter.headers, indent=2, sort_keys=True, ensure_ascii=False))

    @admin.display(description=_("body"))
    def body_shown(self, dead_letter: DeadLetter) -> SafeString:
        return readable(bytes(dead_letter.body))

    @admin.display(description=_("history"))
    def history_shown(self, dead_letter: Any) -> SafeString:
        lines = dead_letter.actions.order_by("-pk")
        rows = format_html_join(
            "", "<tr><td>{}</td><td>{}</td><td>{}</td><td>{}</td><td>{}</td></tr>", map(_cells, lines)
        )
        if not rows:
            return format_html("<p>{}</p>", _("Nothing yet."))
        heads = format_html_join("", "<th>{}</th>", [[head] for head in (_("at"), _("who"), _("what"), _("why"))])
        return format_html(
            "<table><thead><tr>{}<th>{}</th></tr></thead><tbody>{}</tbody></table>", heads, _("what came of it"), rows
        )

    # Who may do what

    def has_dry_run_permission(self, request: HttpRequest) -> bool:
        return self._may(request, "dry_run")

    def has_retry_permission(self, request: HttpRequest) -> bool:
        return self._may(request, "retry")

    def has_edit_permission(self, request: HttpRequest) -> bool:
        return self._may(request, "edit")

    def has_discard_permission(self, request: HttpRequest) -> bool:
        return self._may(request, "discard")

    def _may(self, request: HttpRequest, what: str) -> bool:
        may_see = self.has_view_permission(request)
        return may_see and request.user.has_perm(f"{self.opts.app_label}.{what}_deadletter")

    # What can be done to selected letters, and to one

    @admin.action(description=_("Send again"), permissions=["retry"])
    def send_dead_letters_again(self, request: HttpRequest, queryset: QuerySet[DeadLetter]) -> None:
        sent, by = 0, _by(request)
        try:
            with to_the_broker(self.opts.app_label) as publisher:
                for dead_letter in queryset.order_by("pk"):
                    try:
                        send_again(dead_letter, publisher, by)
                        sent += 1
                    except NotParked as refusal:
                        self.message_user(request, str(refusal), messages.WARNING)
        except Transient as down:
            self._tell_that_the_broker_is_down(request, down)
        if sent:
            text = ngettext("%d letter was sent again.", "%d letters were sent again.", sent)
            self.message_user(request, text % sent, messages.SUCCESS)

    @method_decorator(require_POST)
    def send_again_view(self, request: HttpRequest, object_id: str) -> HttpResponse:
        """The button on a letter's own page."""
        dead_letter = self._dead_letter(request, object_id, self.has_retry_permission)
        self.send_dead_letters_again(request, self.get_queryset(request).filter(pk=dead_letter.pk))
        return redirect(self._url("change", dead_letter.pk))

    @method_decorator(require_POST)
    def dry_run_view(self, request: HttpRequest, object_id: str) -> HttpResponse:
        """Show what sending it again would do."""
        dead_letter = self._dead_letter(request, object_id, self.has_dry_run_permission)
        found = dry_run(dead_letter, _by(request))
        more = {"found": found, "can_retry": self.has_retry_permission(request) and is_open(dead_letter)}
        return self._page(request, "dry_run", _("Dry run of %s") % dead_letter, dead_letter, **more)

    def edit_view(self, request: HttpRequest, object_id: str) -> HttpResponse:
        """A form with the message, which is checked, kept beside the old one, and sent."""
        dead_letter = self._dead_letter(request, object_id, self.has_edit_permission)
        if not is_open(dead_letter):
            self.message_user(request, _("It is not parked any more."), messages.WARNING)
            return redirect(self._url("change", dead_letter.pk))
        form = EditForm(
            request.POST or None, initial={"body": indented(bytes(dead_letter.body).decode(errors="replace"))}
        )
        if form.is_valid():
            body = form.cleaned_data["body"].encode()
            try:
                actions.edit(dead_letter, body, _by(request, form.cleaned_data["why"]))
            except (Refused, NotParked) as refusal:
                form.add_error("body", str(refusal))
            except Transient as down:
                self._tell_that_the_broker_is_down(request, down)
            else:
                self.message_user(request, _("The letter was changed and sent again."), messages.SUCCESS)
                return redirect(self._url("change", dead_letter.pk))
        return self._page(request, "edit", _("Edit %s") % dead_letter, dead_letter, form=form)

    @method_decorator(require_POST)
    def discard_view(self, request: HttpRequest, object_id: str) -> HttpResponse:
        """The button beside the reason on a letter's own page."""
        dead_letter = self._dead_letter(request, object_id, self.has_discard_permission)
        self._discard(request, [dead_letter])
        return redirect(self._url("change", dead_letter.pk))

    # Groups

    def groups_view(self, request: HttpRequest) -> HttpResponse:
        """Letters that still need somebody, by fingerprint."""
        if not self.has_view_permission(request):
            raise PermissionDenied
        found = actions.groups(self.opts.app_label)
        under_way = set(redrives.running(self.opts.app_label).values_list("fingerprint", flat=True))
        return self._page(request, "groups", _("Dead letters by fingerprint"), groups=found, under_way=under_way)

    def group_view(self, request: HttpRequest, fingerprint: str) -> HttpResponse:
        """One group, how its redrives went, and what can be done to all of it."""
        if not self.has_view_permission(request):
            raise PermissionDenied
        service = self.opts.app_label
        under_way = redrives.running(service, fingerprint).first()
        if request.method == "POST":
            self._do_to_group(request, fingerprint, under_way)
            return redirect(self._url("group", fingerprint))
        Outcome = DeadLetterAction.Outcome  # noqa: N806 (it is a class)
        latest = (
            ServiceTables(service)
            .redrives.filter(fingerprint=fingerprint)
            .annotate(
                sent=Count("actions"),
                resolved=Count("actions", filter=Q(actions__outcome=Outcome.RESOLVED)),
                pending=Count("actions", filter=Q(actions__outcome=Outcome.PENDING)),
            )
            .order_by("-pk")[:_REDRIVES]
        )
        return self._page(
            request,
            "group",
            _("Dead letters with the fingerprint %s") % fingerprint,
            fingerprint=fingerprint,
            group=next(iter(actions.groups(service, fingerprint)), None),
            under_way=under_way,
            redrives=latest,
            form=RedriveForm(),
            can_retry=self.has_retry_permission(request),
            can_discard=self.has_discard_permission(request),
        )

    def _do_to_group(self, request: HttpRequest, fingerprint: str, under_way: Any) -> None:
        wish = request.POST.get("wish")
        allowed = self.has_discard_permission if wish == "discard" else self.has_retry_permission
        if not allowed(request):
            raise PermissionDenied
        if wish == "discard":
            parked = self.get_queryset(request).filter(fingerprint=fingerprint, state=DeadLetter.State.PARKED)
            self._discard(request, parked.order_by("pk")[:_DISCARDED_AT_ONCE])
        elif wish == "stop" and under_way:
            redrives.stop(under_way, _by(request))
        elif wish == "retry":
            form = RedriveForm(request.POST)
            if not form.is_valid():
                self.message_user(request, _("The rate must be a number."), messages.ERROR)
                return
            try:
                redrives.start(
                    self.opts.app_label, fingerprint, _by(request, form.cleaned_data["why"]), form.cleaned_data["rate"]
                )
            except redrives.CannotStart as refusal:
                self.message_user(request, str(refusal), messages.ERROR)

    # Helpers

    def get_urls(self) -> list[URLPattern]:
        def own(route: str, view: Callable[..., HttpResponse], name: str) -> URLPattern:
            name = f"{self.opts.app_label}_{self.opts.model_name}_{name}"
            return path(route, self.admin_site.admin_view(view), name=name)

        return [
            own("groups/", self.groups_view, "groups"),
            own("groups/<str:fingerprint>/", self.group_view, "group"),
            own("<path:object_id>/dry-run/", self.dry_run_view, "dry_run"),
            own("<path:object_id>/send-again/", self.send_again_view, "send_again"),
            own("<path:object_id>/edit/", self.edit_view, "edit"),
            own("<path:object_id>/discard/", self.discard_view, "discard"),
            *super().get_urls(),
        ]

    def render_change_form(self, request: HttpRequest, context: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        dead_letter: DeadLetter = kwargs["obj"]
        may = {
            "can_dry_run": self.has_dry_run_permission(request),
            "can_retry": self.has_retry_permission(request) and is_open(dead_letter),
            "can_edit": self.has_edit_permission(request) and is_open(dead_letter),
            "can_discard": self.has_discard_permission(request) and is_open(dead_letter),
        }
        return super().render_change_form(request, context | may, *args, **kwargs)

    def _dead_letter(self, request: HttpRequest, object_id: str, may: Callable[[HttpRequest], bool]) -> DeadLetter:
        """The letter of a page, for someone who may do this to it."""
        if not may(request):
            raise PermissionDenied
        dead_letter: DeadLetter | None = self.get_object(request, unquote(object_id))
        if dead_letter is None:
            raise Http404
        return dead_letter

    def _discard(self, request: HttpRequest, chosen: Iterable[DeadLetter]) -> None:
        discarded, by = 0, _by(request)
        for dead_letter in chosen:
            try:
                actions.discard(dead_letter, by)
                discarded += 1
            except actions.NoReason as refusal:
                self.message_user(request, str(refusal), messages.ERROR)
                return
            except NotParked as refusal:
                self.message_user(request, str(refusal), messages.WARNING)
        text = ngettext("%d letter was discarded.", "%d letters were discarded.", discarded)
        self.message_user(request, text % discarded, messages.SUCCESS)

    def _tell_that_the_broker_is_down(self, request: HttpRequest, error: ChoreographyError) -> None:
        text = _("The broker did not take it, so the rest stays parked. Try again later. (%s)") % error
        self.message_user(request, text, messages.ERROR)

    def _page(
        self, request: HttpRequest, template: str, title: Any, dead_letter: DeadLetter | None = None, **more: Any
    ) -> HttpResponse:
        context = {
            **self.admin_site.each_context(request),
            "opts": self.opts,
            "title": title,
            "dead_letter": dead_letter,
        }
        request.current_app = self.admin_site.name
        return TemplateResponse(request, f"choreography/{template}.html", context | more)

    def _url(self, name: str, *args: Any) -> str:
        return reverse(f"admin:{self.opts.app_label}_{self.opts.model_name}_{name}", args=args)


def _by(request: HttpRequest, why: str | None = None) -> By:
    return By(request.user.get_username(), request.POST.get("why", "") if why is None else why)


def _cells(line: Any) -> tuple[Any, ...]:
    """A line of a letter's history."""
    came_of_it = format_html("{} {}", line.get_outcome_display(), line.detail)
    if line.new_body is not None:
        came_of_it = format_html("{}<details><summary>{}</summary>{}</details>", came_of_it, _("changes"), _diff(line))
    who = line.who if line.redrive_id is None else format_html("{} ({} {})", line.who, _("redrive"), line.redrive_id)
    return line.at.strftime("%Y-%m-%d %H:%M:%S"), who, line.get_what_display(), line.why, came_of_it


def _diff(line: Any) -> SafeString:
    old, new = (indented(bytes(body).decode(errors="replace")).splitlines() for body in (line.old_body, line.new_body))
    return preformatted("\n".join(list(difflib.unified_diff(old, new, lineterm=""))[2:]))
