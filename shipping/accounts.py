"""What shipping's rows say happened, to be compared with what was announced."""

from collections.abc import Iterator
from uuid import UUID

from choreography import Announced, Happened, accounts_for
from shipping.events import ShipmentDelivered, ShipmentDispatched, ShipmentFailed
from shipping.models import Shipment

_ENDS: dict[str, type[Announced]] = {
    Shipment.State.DELIVERED: ShipmentDelivered,
    Shipment.State.FAILED: ShipmentFailed,
}


@accounts_for(ShipmentDispatched, ShipmentDelivered, ShipmentFailed)
def shipments(first: UUID, last: UUID) -> Iterator[Happened]:
    for shipment in Shipment.objects.filter(pk__gte=first, pk__lt=last):
        if shipment.dispatched_at is not None:
            yield Happened(shipment.pk, ShipmentDispatched)
        if shipment.state in _ENDS:
            yield Happened(shipment.pk, _ENDS[shipment.state])
