"""What shipping does as time passes."""

import structlog

from choreography.errors import Transient
from choreography.models import transaction_of
from choreography.purge import purge
from choreography.timers import every
from shipping import services
from shipping.carrier import carrier
from shipping.models import Shipment

log = structlog.get_logger(__name__)

#: Parcels looked at in one tick.
_AT_ONCE = 200


@every("TRACK_PARCELS_SECONDS")
def track_parcels() -> None:
    """Ask the carrier where parcels are. What it can't say now is left to the next tick."""
    for shipment in Shipment.objects.under_way()[:_AT_ONCE]:
        try:
            tracking = carrier().track(shipment.parcel)
        except Transient as error:
            log.warning("tracking postponed", flow=str(shipment.order_id), error=type(error).__name__)
            continue
        with transaction_of("shipping"):
            services.record_tracking(shipment.order_id, tracking)


@every("PURGE_SECONDS")
def purge_old_events() -> None:
    """Remove old rows of the outbox and the inbox."""
    purge("shipping")
