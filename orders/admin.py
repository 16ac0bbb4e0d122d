"""What people see of orders, and the two things they can do: place one, and ask for one to be cancelled."""

from collections.abc import Iterable
from typing import Any
from uuid import UUID

from django.contrib import admin, messages
from django.contrib.admin.utils import unquote
from django.core.exceptions import PermissionDenied
from django.db.models import QuerySet
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import redirect
from django.template.response import TemplateResponse
from django.urls import URLPattern, path, reverse
from django.utils.formats import date_format
from django.utils.html import format_html
from django.utils.safestring import SafeString
from django.utils.text import get_text_list
from django.utils.timezone import localtime
from django.utils.translation import gettext_lazy as _
from django.utils.translation import ngettext

from choreography.core import clock
from common.orders import OrderKeyedAdmin
from orders import money, services
from orders.forms import LineForm, LineFormSet, OrderForm, ProductField, ProductSelect
from orders.models import (
    CancellationPending,
    Order,
    OrderFinished,
    OrderLine,
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

    def formfield_for_foreignkey(self, db_field: Any, request: HttpRequest, **kwargs: Any) -> Any:
        product = {"form_class": ProductField, "widget": ProductSelect(db_field, self.admin_site)}
        return super().formfield_for_foreignkey(db_field, request, **kwargs, **product)

    def formfield_for_dbfield(self, *args: Any, **kwargs: Any) -> Any:
        """Without the buttons to edit products: an order is no place for that."""
        field: Any = super().formfield_for_dbfield(*args, **kwargs)
        for button in ("add", "change", "delete", "view"):
            setattr(field.widget, f"can_{button}_related", False)
        return field


class StatusFilter(admin.SimpleListFilter):
    """The status is worked out by the database, so its field offers no choices of its own."""

    title = _("status")
    parameter_name = "status"

    def lookups(self, request: HttpRequest, model_admin: Any) -> Iterable[tuple[str, Any]]:
        return Order.Status.choices

    def queryset(self, request: HttpRequest, queryset: QuerySet[Order]) -> QuerySet[Order]:
        return queryset if self.value() is None else queryset.filter(status=self.value())


class AttentionFilter(admin.SimpleListFilter):
    """Orders that only a person can bring to their end."""

    title = _("needs a person")
    parameter_name = "attention"

    def lookups(self, request: HttpRequest, model_admin: Any) -> Iterable[tuple[str, Any]]:
        return [("yes", _("Yes")), ("no", _("No"))]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Order]) -> QuerySet[Order]:
        match self.value():
            case "yes":
                return queryset.exclude(attention="")
            case "no":
                return queryset.filter(attention="")
        return queryset


@admin.register(Order)
class OrderAdmin(OrderKeyedAdmin):
    """Orders: add one, watch it, cancel it. Nothing else about it is for people to change."""

    form = OrderForm
    add_form_template = "orders/add_order.html"
    inlines = (LineInline,)
    fieldsets = (
        (_("Customer"), {"fields": ("customer_name", "given_name", "family_name", "customer_email")}),
        (_("Address"), {"fields": ("street", "postal_code", "city", "country")}),
        (_("Payment"), {"fields": ("payment_token",)}),
    )

    list_display = ("number", "placed", "status_shown", "attention", "customer_name", "total_shown")
    list_filter = (StatusFilter, AttentionFilter, "placed_at")
    search_fields = ("id__iendswith", "customer_email", "customer_name")
    search_help_text = _("An order's number or id, or a part of the customer's name or e-mail.")
    actions = ("cancel_orders",)

    class Media:
        css = {"all": ["orders/order.css"]}

    @admin.display(description=_("placed at"), ordering="placed_at")
    def placed(self, order: Order) -> str:
        return date_format(localtime(order.placed_at), "Y-m-d H:i")

    @admin.display(description=_("total"), ordering="total")
    def total_shown(self, order: Order) -> str:
        return Progress(order).total

    @admin.display(description=_("status"), ordering="status")
    def status_shown(self, order: Order) -> SafeString:
        return format_html('<span class="status status-{}">{}</span>', order.status, Progress(order).status)

    def has_add_permission(self, request: HttpRequest) -> bool:
        return request.user.has_perm("orders.add_order")

    def has_cancel_permission(self, request: HttpRequest) -> bool:
        return request.user.has_perm("orders.cancel_order")

    def get_urls(self) -> list[URLPattern]:
        view = self.admin_site.admin_view(self.cancel_view)
        return [path("<path:object_id>/cancel/", view, name="orders_order_cancel"), *super().get_urls()]

    # Placing an order

    def add_view(
        self, request: HttpRequest, form_url: str = "", extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        """One form makes one order, however often it is sent."""
        if not self.has_add_permission(request):
            raise PermissionDenied
        twin = _made_by(request.POST.get("submission", ""))
        if twin is not None:
            return self._sent_already(request, services.SubmittedTwice(twin))
        buttons = {"show_save_and_continue": False, "show_save_and_add_another": False}
        try:
            return super().add_view(request, form_url, buttons | (extra_context or {}))
        except services.SubmittedTwice as twice:  # by the first of two that are handled at once
            return self._sent_already(request, twice)

    def save_model(self, request: HttpRequest, obj: Order, form: Any, change: bool) -> None:
        """Not yet: an order is stored together with its lines and its event, by ``save_related``."""

    def save_related(self, request: HttpRequest, form: Any, formsets: Any, change: bool) -> None:
        order, (lines,) = form.instance, formsets
        order.pk = clock.new_id()  # Django's formsets take away an id that has a default
        order.submission = form.cleaned_data["submission"]
        services.place_order(order, lines.picks)

    def construct_change_message(self, *args: Any, **kwargs: Any) -> list[dict[str, Any]]:
        return [{"added": {}}]

    def response_add(self, request: HttpRequest, obj: Order, post_url_continue: str | None = None) -> HttpResponse:
        self.message_user(request, _("Order %s is placed.") % obj.number, messages.SUCCESS)
        return self._to(obj, request)

    def _sent_already(self, request: HttpRequest, twice: services.SubmittedTwice) -> HttpResponse:
        self.message_user(request, str(twice), messages.INFO)
        return self._to(twice.order, request)

    def _to(self, order: Order, request: HttpRequest) -> HttpResponse:
        """On to the order's page, for those who may see it."""
        if self.has_view_permission(request, order):
            return redirect("admin:orders_order_change", order.pk)
        return redirect("admin:index")

    # Watching it

    def change_view(
        self,
        request: HttpRequest,
        object_id: str,
        form_url: str = "",
        extra_context: dict[str, Any] | None = None,
    ) -> HttpResponse:
        """The order's page: nothing to fill in."""
        order = self.get_object(request, unquote(object_id))
        if not self.has_view_permission(request, order) or request.method not in ("GET", "HEAD"):
            raise PermissionDenied
        if order is None:
            raise Http404(_("There is no such order."))
        progress = Progress(order)
        extra = {
            "can_cancel": self.has_cancel_permission(request) and not progress.is_over,
            "can_see_dead_letters": request.user.has_perm("orders.view_deadletter"),
        }
        return self._page("orders/order.html", request, order, progress=progress, **extra)

    def _page(self, template: str, request: HttpRequest, order: Order, **context: Any) -> HttpResponse:
        return TemplateResponse(
            request,
            template,
            {
                **self.admin_site.each_context(request),
                "opts": self.opts,
                "order": order,
                "title": _("Order %s") % order.number,
                "media": self.media,
                **context,
            },
        )

    # Cancelling it

    def cancel_view(self, request: HttpRequest, object_id: str) -> HttpResponse:
        """Ask whether it is meant (GET), then ask for the cancellation (POST)."""
        order = self.get_object(request, unquote(object_id))
        if not (self.has_view_permission(request, order) and self.has_cancel_permission(request)):
            raise PermissionDenied
        if order is None:
            raise Http404(_("There is no such order."))
        if request.method == "POST":
            self._cancel(request, [order])
            return redirect("admin:orders_order_change", order.pk)
        return self._page("orders/cancel_order.html", request, order)

    @admin.action(description=_("Ask for the selected orders to be cancelled"), permissions=["cancel"])
    def cancel_orders(self, request: HttpRequest, orders: QuerySet[Order]) -> None:
        self._cancel(request, orders.order_by("placed_at"))

    def _cancel(self, request: HttpRequest, orders: Iterable[Order]) -> None:
        """Ask for each, and say what came of it."""
        asked: list[Order] = []
        for order in orders:
            try:
                services.request_cancellation(order.pk)
            except OrderFinished as refusal:
                self.message_user(request, str(refusal), messages.ERROR)
            except CancellationPending as refusal:
                self.message_user(request, str(refusal), messages.WARNING)
            else:
                self.log_change(request, order, _("Asked for it to be cancelled."))
                asked.append(order)
        if asked:
            text = ngettext(
                "The cancellation of order %(orders)s is asked for. It can be granted until the parcel is sent.",
                "The cancellation of orders %(orders)s is asked for. It can be granted until the parcel is sent.",
                len(asked),
            )
            numbers = get_text_list([order.number for order in asked], _("and"))
            self.message_user(request, text % {"orders": numbers}, messages.SUCCESS)


def _made_by(submission: str) -> Order | None:
    """The order a form has made already."""
    try:
        return Order.objects.filter(submission=UUID(submission)).first()
    except ValueError:
        return None
