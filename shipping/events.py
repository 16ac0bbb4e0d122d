"""The facts shipping announces: its published contract. A published version never changes shape."""

from pydantic import Field

from choreography.events.messages import SEARCHABLE, Announced
from common.texts import Code


class ShipmentDispatched(Announced, type="shipping.shipment_dispatched.v1"):
    """The parcel is on its way."""

    parcel: Code = Field(description="the carrier's name for the parcel", json_schema_extra=SEARCHABLE)


class ShipmentDelivered(Announced, type="shipping.shipment_delivered.v1"):
    """The customer has the parcel."""

    parcel: Code = Field(description="the carrier's name for the parcel", json_schema_extra=SEARCHABLE)


class ShipmentFailed(Announced, type="shipping.shipment_failed.v1"):
    """The parcel can't be sent, or never arrived."""

    reason: Code = Field(description="a code: no_such_address, lost")


class ShipmentCancelled(Announced, type="shipping.shipment_cancelled.v1"):
    """A cancellation came in time: nothing was sent, and nothing ever will be."""

    reason: Code = Field(description="the reason given in the request")


class CancellationRefused(Announced, type="shipping.cancellation_refused.v1"):
    """A cancellation came too late."""

    reason: Code = Field(description="a code for what had happened: dispatched, delivered, failed")
