"""What people see of shipping. Nothing here can be changed by hand: parcels move by events."""

from django.contrib import admin
from django.utils.translation import gettext_lazy as _

from choreography.admin.tables import FirstPaginator, NewestValuesFilter
from common.orders import OrderKeyedAdmin
from shipping.models import Shipment


@admin.register(Shipment)
class ShipmentAdmin(OrderKeyedAdmin):
    """The parcel of each order."""

    paginator = FirstPaginator

    list_display = ("number", "state", "parcel", "country", "created_at", "dispatched_at", "ended_at", "reason")
    list_filter = ("state", "created_at", ("country", NewestValuesFilter))
    search_fields = ("order_id__iendswith", "=parcel")
    search_help_text = _("An order's id or number, or a parcel's.")
    fieldsets = (
        (None, {"fields": ("order_id", "state", "reason", "parcel")}),
        (_("Address"), {"fields": ("name", "street", "city", "postal_code", "country")}),
        (_("History"), {"fields": ("created_at", "cancel_requested", "dispatched_at", "tracked_at", "ended_at")}),
    )
