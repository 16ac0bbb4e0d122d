"""What people see of orders, and the two things they can do: place one, and ask for one to be cancelled."""

from collections.abc import Iterable
from typing import Any
from uuid import UUID

from django.contrib import admin, messages
from django.contrib.admin.utils import unquote
from django.core.exceptions import PermissionDenied
from django.db.models import QuerySet
from django.forms import ModelForm
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import redirect
from django.template.response import TemplateResponse
from django.urls import URLPattern, path, reverse
from django.utils.html import format_html
from django.utils.safestring import SafeString
from django.utils.translation import gettext_lazy as _
from django.utils.translation import ngettext
from django.views.decorators.csrf import csrf_protect
from django.utils.decorators import method_decorator

from choreography import world
from choreography.admin import DeadLetterAdmin, InboxAdmin, OutboxAdmin, ReadOnlyAdmin
from orders import money, services
from orders.forms import LineForm, LineFormSet, OrderForm
from orders.models import (
    CancellationPending,
    DeadLetter,
    Inbox,
    Order,
    OrderFinished,
    OrderLine,
    Outbox,
    Product,
)
from orders.progress import Progress


@admin.register(Product)
class ProductAdmin(admin.ModelAdmin):  # type: ignore[type-arg]
    """The catalogue."""

    list_display = ("name", "sku", "price_shown", "active")
    list_filter = ("active", "currency")
    search_fields = ("name", "sku")
    search_help_text = _("A part of the name or of the SKU.")

    @admin.display(description=_("price"), ordering="price")
    def price_shown(self, product: Product) -> str:
        return money.display(product.price, product.currency)

    def get_search_results(
        self, request: HttpRequest, queryset: QuerySet[Product], search_term: str
    ) -> tuple[QuerySet[Product], bool]:
        """Where a product is picked for an order, only those that are sold."""
        found, may_have_duplicates = super().get_search_results(request, queryset, search_term)
        if request.path == reverse("admin:autocomplete"):
            found = found.filter(active=True)
        return found, may_have_duplicates


class LineInline(admin.TabularInline):  # type: ignore[type-arg]
    """What is ordered. Who may place orders may fill in their lines."""

    model = OrderLine
    form = LineForm
    formset = LineFormSet
    autocomplete_fields = ("product",)
    extra = 1
    max_num = services.MAX_LINES

    def has_add_permission(self, request: HttpRequest, obj: Order | None = None) -> bool:
        return request.user.has_perm("orders.add_order")

    has_view_permission = has_change_permission = has_delete_permission = has_add_permission

    def formfield_for_foreignkey(self, *args: Any, **kwargs: Any) -> Any:
        """Without the buttons to add or edit a product: an order is no place for that."""
        field = super().formfield_for_foreignkey(*args, **kwargs)
        return field
