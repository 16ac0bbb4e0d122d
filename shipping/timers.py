"""What shipping does as time passes."""

from collections.abc import Iterator, Mapping
from datetime import timedelta
from itertools import islice
from uuid import UUID

import structlog

from choreography.core import clock
from choreography.core.classification import is_database_down
from choreography.core.errors import Outage, Transient
from choreography.events.timers import every, for_each
from choreography.outbox.announcing import transaction_of
from shipping import services
from shipping.carrier import Tracking, carrier
from shipping.models import Shipment

log = structlog.get_logger(__name__)


#: Parcels that are asked about before what the carrier said is entered, and how often that is done in one tick.
_BATCH, _BATCHES = 100, 30
#: How long a slow carrier may keep back what it has said.
_PATIENCE = timedelta(seconds=1)


@every("TRACK_PARCELS_SECONDS")
def track_parcels() -> None:
    """Ask the carrier where parcels are. What it can't say now is left to a later tick."""
    due = iter(Shipment.objects.under_way().values_list("pk", "parcel")[: _BATCH * _BATCHES])
    for_each([due] * _BATCHES, _track_some)


def _track_some(due: Iterator[tuple[UUID, str]]) -> None:
    """Ask about the next parcels and enter what the carrier says. Where it is down, or slow, they are fewer.

    Raises:
        ExceptionGroup: what went wrong with single parcels, after the others are entered.
    """
    said: dict[UUID, Tracking | None] = {}
    faults: list[Exception] = []
    until = clock.now() + _PATIENCE
    for order_id, parcel in islice(due, _BATCH):
        said[order_id] = None
        try:
            said[order_id] = carrier().track(parcel)
        except Transient as error:
            log.warning("postponed", about=parcel, error=type(error).__name__)
            if isinstance(error, Outage):
                break
        except Exception as error:
            faults.append(error)
        if clock.now() >= until:
            break
    if said:
        _enter(said)
    if faults:
        raise ExceptionGroup(f"{len(faults)} parcels could not be tracked", faults)


def _enter(said: Mapping[UUID, Tracking | None]) -> None:
    """Enter, in one transaction, what the carrier says of parcels; ``None``: nothing. If that fails, each alone.

    Raises:
        ExceptionGroup: the faults of those that failed alone.
    """
    try:
        with transaction_of("shipping"), Shipment.objects.locked(said) as shipments:
            for shipment in shipments:
                shipment.tracked_at = clock.now()
                tracking = said[shipment.pk]
                if tracking is not None:
                    services.record_tracking(shipment, tracking)
    except Exception as error:
        if is_database_down(error):
            raise
        for_each(said.items(), _enter_alone)


def _enter_alone(said: tuple[UUID, Tracking | None]) -> None:
    order_id, tracking = said
    # Noted by itself, so that a parcel that can't be entered does not stand first in line for ever.
    Shipment.objects.filter(pk=order_id).update(tracked_at=clock.now())
    if tracking is not None:
        with transaction_of("shipping"), Shipment.objects.locked([order_id]) as [shipment]:
            services.record_tracking(shipment, tracking)
