"""Journal in the admin: the flows, each linked to its page."""

from django.contrib import admin
from django.urls import reverse
from django.utils.html import format_html
from django.utils.safestring import SafeString
from django.utils.translation import gettext_lazy as _

from choreography.admin.tables import ReadOnlyAdmin
from journal.models import Flow


@admin.register(Flow)
class FlowAdmin(ReadOnlyAdmin):
    """What there is to see of a flow is on its page."""

    list_display = ("id", "page", "started_at", "ended_at", "end", "mark", "parked")
    list_filter = ("mark", "needs_person")
    search_fields = ("=id", "=number")
    search_help_text = _("An order's number or id.")

    @admin.display(description=_("page"))
    def page(self, flow: Flow) -> SafeString:
        return format_html('<a href="{}">{}</a>', reverse("flow", args=[flow.pk]), flow.number)
