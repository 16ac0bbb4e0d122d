"""What shipping does as time passes."""

from choreography import redrive, world
from choreography.models import transaction_of
from choreography.overdue import send_overdue
from choreography.purge import purge
from choreography.timers import every, for_each
from shipping import services
from shipping.carrier import carrier
from shipping.models import Shipment

#: Parcels looked at in one tick.
_AT_ONCE = 200


@every("TRACK_PARCELS_SECONDS")
def track_parcels() -> None:
    """Ask the carrier where parcels are. What it can't say now is left to a later tick."""
    for_each(Shipment.objects.under_way()[:_AT_ONCE], _track)


def _track(shipment: Shipment) -> None:
    # Noted before the carrier is asked, so that parcels it can't tell about don't stand first in line for ever.
    Shipment.objects.filter(pk=shipment.pk).update(tracked_at=world.now())
    tracking = carrier().track(shipment.parcel)
    with transaction_of("shipping"):
        services.record_tracking(shipment.order_id, tracking)


@every("PURGE_SECONDS")
def purge_old_events() -> None:
    """Remove old rows of the outbox and the inbox."""
    purge("shipping")


@every("REDRIVE_SECONDS")
def send_letters_again() -> None:
    """Move on what people have asked to be sent again from the dead letters."""
    redrive.go_on("shipping")


@every("OVERDUE_SECONDS")
def send_overdue_retries() -> None:
    """Send again what should be back from the retry ladder and is not."""
    send_overdue("shipping")
