"""What every service shows of an order: it knows it by its id."""

from typing import Any
from uuid import UUID

from django.contrib import admin
from django.db.models import QuerySet
from django.http import HttpRequest
from django.utils.translation import gettext_lazy as _

from choreography.admin.tables import ReadOnlyAdmin, rows_with_id


def number(order_id: UUID) -> str:
    """An order's id as people say it: its last eight digits."""
    return order_id.hex[-8:].upper()


class OrderKeyedAdmin(ReadOnlyAdmin):
    """Rows whose key is an order's id. Such ids sort by time, so the key's index has the newest at its end."""

    ordering = ("-pk",)

    @admin.display(description=_("order number"), ordering="pk")
    def number(self, row: Any) -> str:
        return number(row.pk)

    def get_search_results(
        self, request: HttpRequest, queryset: QuerySet[Any], search_term: str
    ) -> tuple[QuerySet[Any], bool]:
        """A whole id is found by the key. Anything else is looked for in every row."""
        found = rows_with_id(search_term, queryset, "pk")
        if found is not None and found.exists():
            return found, False
        return super().get_search_results(request, queryset, search_term)
