"""Journal in the admin: the flows, each of which leads to its page."""

from typing import ClassVar

from django.contrib import admin
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect
from django.utils.translation import gettext_lazy as _

from choreography.admin.tables import FirstPaginator
from journal.models import Flow


@admin.register(Flow)
class FlowAdmin(admin.ModelAdmin):  # type: ignore[type-arg]
    """Read only. What there is to see of a flow is on its page."""

    list_display = ("number", "started_at", "ended_at", "end", "mark", "parked")
    list_filter: ClassVar = ("mark", "needs_person")
    search_fields = ("=id", "=number")
    search_help_text = _("An order's number or id.")
    paginator = FirstPaginator
    show_full_result_count = False

    def change_view(
        self, request: HttpRequest, object_id: str, form_url: str = "", extra_context: dict[str, object] | None = None
    ) -> HttpResponse:
        return redirect("flow", flow=object_id)

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Flow | None = None) -> bool:
        return False
