"""What people see of payments. Nothing here can be changed by hand: money moves by events."""

from typing import Any

from django.contrib import admin
from django.contrib.admin.utils import label_for_field
from django.db.models import QuerySet
from django.http import HttpRequest
from django.utils.translation import gettext_lazy as _

from choreography.admin.tables import FirstPaginator, NewestValuesFilter
from common.money import display
from common.orders import OrderKeyedAdmin
from payments.models import Entry, Payment


class EntryInline(admin.TabularInline):  # type: ignore[type-arg]
    """The ledger."""

    model = Entry
    fields = ("kind", "money", "key", "entered_at")
    readonly_fields = fields
    can_delete = False

    def has_view_permission(self, request: HttpRequest, obj: Payment | None = None) -> bool:
        """Who may see the payment may see how it came about."""
        return request.user.has_perm("payments.view_payment")

    def has_add_permission(self, request: HttpRequest, obj: Payment | None = None) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Payment | None = None) -> bool:
        return False

    def get_queryset(self, request: HttpRequest) -> QuerySet[Entry]:
        """With the payment: an entry's currency is the payment's."""
        return super().get_queryset(request).select_related("payment")

    @admin.display(description=_("amount"))
    def money(self, entry: Entry) -> str:
        return display(entry.amount, entry.payment.currency)


def _amount(name: str) -> Any:
    """A column of the payment as money."""

    label: Any = label_for_field(name, Payment)

    @admin.display(description=label, ordering=name)
    def column(payment: Payment) -> str:
        return display(getattr(payment, name), payment.currency) if getattr(payment, name) else "-"

    column.__name__ = name
    return column


_AMOUNTS = tuple(_amount(name) for name in ("asked", "authorized", "captured", "voided", "refunded"))


@admin.register(Payment)
class PaymentAdmin(OrderKeyedAdmin):
    """The money of each order."""

    paginator = FirstPaginator

    list_display = ("number", "created_at", *_AMOUNTS, "declined", "capture_refused", "order_cancelled")
    list_filter = (
        "order_cancelled",
        "created_at",
        ("declined", NewestValuesFilter),
        ("currency", NewestValuesFilter),
    )
    search_fields = ("order_id__iendswith", "=reference")
    search_help_text = _("An order's id or number, or the provider's reference.")
    fieldsets = (
        (None, {"fields": ("order_id", "created_at", "authorized_at", "reference")}),
        (_("Amounts"), {"fields": _AMOUNTS}),
        (_("What went otherwise"), {"fields": ("declined", "capture_refused", "order_cancelled")}),
    )
    readonly_fields = (
        "order_id",
        "created_at",
        "authorized_at",
        "reference",
        *_AMOUNTS,
        "declined",
        "capture_refused",
        "order_cancelled",
    )
    inlines = (EntryInline,)
