"""What a person can do in the admin: to one dead letter, to selected ones, and to all of one fingerprint."""

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from django import forms
from django.contrib import messages
from django.contrib.admin.utils import unquote
from django.core.exceptions import PermissionDenied
from django.db.models import Count, Q, QuerySet
from django.http import Http404, HttpRequest, HttpResponse
from django.http.response import HttpResponseBase
from django.shortcuts import redirect
from django.template.response import TemplateResponse
from django.utils.translation import gettext_lazy as _
from django.utils.translation import ngettext
from django.views import View

from choreography.admin.tables import indented
from choreography.core.errors import ChoreographyError, PublishRefused, Transient
from choreography.dead_letters import actions, redrives
from choreography.dead_letters.actions import By, NoReason, NotParked, is_open, to_the_broker
from choreography.dead_letters.dry_runs import dry_run
from choreography.dead_letters.editing import Refused
from choreography.storage.models import DeadLetter, DeadLetterAction, Redrive
from choreography.storage.tables import ServiceTables

if TYPE_CHECKING:
    from choreography.admin.dead_letters import DeadLetterAdmin

#: Redrives of a group that are listed, and dead letters that are discarded with one press.
_LISTED_REDRIVES, _DISCARDED_AT_ONCE = 10, 1000


class EditForm(forms.Form):
    """Another body for a dead letter's message."""

    body = forms.CharField(
        label=_("Message"), strip=False, widget=forms.Textarea(attrs={"rows": 30, "cols": 100, "spellcheck": "false"})
    )
    why = forms.CharField(label=_("Why"), required=False, max_length=500, widget=forms.TextInput(attrs={"size": 80}))


class RedriveForm(forms.Form):
    """How fast a group is sent again, and why."""

    rate = forms.FloatField(label=_("Dead letters per second"), initial=redrives.RATE)
    why = forms.CharField(label=_("Why"), required=False, max_length=500)


class DeadLettersView(View):
    """Base of the pages of one service's dead letters."""

    model_admin: "DeadLetterAdmin | None" = None

    @property
    def admin(self) -> "DeadLetterAdmin":
        assert self.model_admin is not None  # noqa: S101 (as_view gives it)
        return self.model_admin

    @property
    def service(self) -> str:
        return self.admin.opts.app_label

    def page(self, template: str, title: Any, **context: Any) -> HttpResponse:
        self.request.current_app = self.admin.admin_site.name  # as Django's admin does
        common = self.admin.admin_site.each_context(self.request) | {"opts": self.admin.opts, "title": title}
        return TemplateResponse(self.request, f"choreography/{template}.html", common | context)


class DeadLetterView(DeadLettersView):
    """Base of the pages of one dead letter, for those who have ``permission``."""

    permission: str

    def dispatch(self, request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponseBase:
        if not self.admin.may(request, self.permission):
            raise PermissionDenied
        found: DeadLetter | None = self.admin.get_object(request, unquote(kwargs.pop("object_id")))
        if found is None:
            raise Http404
        self.dead_letter = found
        return super().dispatch(request, *args, **kwargs)

    def back(self) -> HttpResponse:
        return redirect(self.admin.url("change", self.dead_letter.pk))


class SendAgainView(DeadLetterView):
    permission = "retry"

    def post(self, request: HttpRequest) -> HttpResponse:
        send_again(self.admin, request, self.admin.get_queryset(request).filter(pk=self.dead_letter.pk))
        return self.back()


class DryRunView(DeadLetterView):
    """Show what sending it again would do."""

    permission = "dry_run"

    def post(self, request: HttpRequest) -> HttpResponse:
        found = dry_run(self.dead_letter, by(request))
        if not self.admin.sees_personal(request):
            found = found.masked()
        can_retry = self.admin.may(request, "retry") and is_open(self.dead_letter)
        title = _("Dry run of %s") % self.dead_letter
        return self.page("dry_run", title, dead_letter=self.dead_letter, found=found, can_retry=can_retry)


class EditView(DeadLetterView):
    """A form with the message, which is checked, kept beside the old one, and sent."""

    permission = "edit"

    def dispatch(self, request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponseBase:
        self.form = EditForm(request.POST or None)
        return super().dispatch(request, *args, **kwargs)

    def get(self, request: HttpRequest) -> HttpResponse:
        if not is_open(self.dead_letter):
            messages.warning(request, _("It is not parked any more."))
            return self.back()
        self.form.fields["body"].initial = indented(bytes(self.dead_letter.body).decode(errors="replace"))
        return self.page("edit", _("Edit %s") % self.dead_letter, dead_letter=self.dead_letter, form=self.form)

    def post(self, request: HttpRequest) -> HttpResponse:
        if self.form.is_valid() and is_open(self.dead_letter):
            try:
                actions.edit(
                    self.dead_letter,
                    self.form.cleaned_data["body"].encode(),
                    by(request, self.form.cleaned_data["why"]),
                )
            except (Refused, PublishRefused, NotParked) as refusal:
                self.form.add_error("body", str(refusal))
            except Transient as down:
                tell_that_the_broker_is_down(request, down)
            else:
                messages.success(request, _("The dead letter was changed and sent again."))
                return self.back()
        return self.get(request)


class DiscardView(DeadLetterView):
    permission = "discard"

    def post(self, request: HttpRequest) -> HttpResponse:
        discard(request, [self.dead_letter])
        return self.back()


class GroupsView(DeadLettersView):
    """Dead letters that still need somebody, by fingerprint."""

    def get(self, request: HttpRequest) -> HttpResponse:
        if not self.admin.has_view_permission(request):
            raise PermissionDenied
        under_way = set(redrives.running(self.service).values_list("fingerprint", flat=True))
        return self.page(
            "groups", _("Dead letters by fingerprint"), groups=actions.groups(self.service), under_way=under_way
        )


class GroupView(DeadLettersView):
    """The dead letters of one fingerprint, how their redrives went, and what can be done to all of them."""

    def get(self, request: HttpRequest, fingerprint: str) -> HttpResponse:
        if not self.admin.has_view_permission(request):
            raise PermissionDenied
        return self.page(
            "group",
            _("Dead letters with the fingerprint %s") % fingerprint,
            fingerprint=fingerprint,
            group=next(iter(actions.groups(self.service, fingerprint)), None),
            under_way=redrives.running(self.service, fingerprint).first(),
            redrives=self._redrives(fingerprint),
            form=RedriveForm(),
            can_retry=self.admin.may(request, "retry"),
            can_discard=self.admin.may(request, "discard"),
        )

    def post(self, request: HttpRequest, fingerprint: str) -> HttpResponse:
        action = request.POST.get("action")
        if not self.admin.may(request, "discard" if action == "discard" else "retry"):
            raise PermissionDenied
        if action == "discard":
            parked = ServiceTables(self.service).dead_letters.filter(
                fingerprint=fingerprint, state=DeadLetter.State.PARKED
            )
            discard(request, parked.order_by("pk")[:_DISCARDED_AT_ONCE])
        elif action == "stop":
            for redrive in redrives.running(self.service, fingerprint):
                redrives.stop(redrive, by(request))
        elif action == "retry":
            self._start_redrive(request, fingerprint)
        return redirect(self.admin.url("group", fingerprint))

    def _start_redrive(self, request: HttpRequest, fingerprint: str) -> None:
        form = RedriveForm(request.POST)
        if not form.is_valid():
            messages.error(request, _("The rate must be a number."))
            return
        try:
            redrives.start(self.service, fingerprint, by(request, form.cleaned_data["why"]), form.cleaned_data["rate"])
        except redrives.CannotStart as refusal:
            messages.error(request, str(refusal))

    def _redrives(self, fingerprint: str) -> QuerySet[Redrive, Any]:
        outcomes = DeadLetterAction.Outcome
        rows = ServiceTables(self.service).redrives.filter(fingerprint=fingerprint)
        return rows.annotate(
            sent=Count("actions"),
            resolved=Count("actions", filter=Q(actions__outcome=outcomes.RESOLVED)),
            pending=Count("actions", filter=Q(actions__outcome=outcomes.PENDING)),
        ).order_by("-pk")[:_LISTED_REDRIVES]


def send_again(model_admin: "DeadLetterAdmin", request: HttpRequest, chosen: QuerySet[DeadLetter]) -> None:
    """Send dead letters again, and say how many."""
    sent = 0
    try:
        with to_the_broker(model_admin.opts.app_label) as publisher:
            for dead_letter in chosen.order_by("pk"):
                try:
                    actions.send_again(dead_letter, publisher, by(request))
                    sent += 1
                except (NotParked, PublishRefused) as refusal:
                    messages.warning(request, str(refusal))
    except Transient as down:
        tell_that_the_broker_is_down(request, down)
    if sent:
        text = ngettext("%d dead letter was sent again.", "%d dead letters were sent again.", sent)
        messages.success(request, text % sent)


def discard(request: HttpRequest, chosen: Iterable[DeadLetter]) -> None:
    """Discard dead letters, and say how many."""
    discarded = 0
    for dead_letter in chosen:
        try:
            actions.discard(dead_letter, by(request))
            discarded += 1
        except NoReason as refusal:
            messages.error(request, str(refusal))
            return
        except NotParked as refusal:
            messages.warning(request, str(refusal))
    text = ngettext("%d dead letter was discarded.", "%d dead letters were discarded.", discarded)
    messages.success(request, text % discarded)


def tell_that_the_broker_is_down(request: HttpRequest, error: ChoreographyError) -> None:
    text = _("The broker did not take it, so the rest stays parked. Try again later. (%s)") % error
    messages.error(request, text)


def by(request: HttpRequest, why: str | None = None) -> By:
    """Who sends this request, and why."""
    return By(request.user.get_username(), request.POST.get("why", "") if why is None else why)
