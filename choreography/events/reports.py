"""What a service tells of the outcomes of its deliveries: an event of its own, for whoever keeps the history of flows.

Only the services in ``CHOREOGRAPHY["REPORTS"]`` do. Their relays announce it on ``<service>.deliveries_reported.v1``.
"""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from choreography.core.conf import conf
from choreography.events.messages import Announced, Moment, published

What = Literal["done", "duplicate", "retried", "waiting", "parked", "sent_again", "discarded"]


class DeliveryReport(BaseModel):
    """What became of one delivery, once."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    event_id: str | None = Field(description="the event it held; null if that could not be read")
    event_type: str = Field(description="its type; empty if that could not be read")
    subject: str = Field(description="what the event is about; empty if that could not be read")
    flow: str = Field(description="the flow it belongs to; empty if that could not be read")
    reaction: str = Field(description="its name, <service>.<function>; empty if there is none")
    outcome: What = Field(
        description="done, duplicate, retried, waiting (for another event), parked; and for a dead letter sent_again, "
        "discarded"
    )
    attempt: int = Field(ge=0, description="which attempt it was, counted from 1")
    error: str = Field(default="", description="why it failed: class and reason, without data of the event")
    dead_letter: str | None = Field(default=None, description="the key of its dead letter, if it is or was parked")
    published_at: Moment | None = Field(default=None, description="when the event was given to the broker")
    received_at: Moment | None = Field(default=None, description="when the worker got the delivery")
    started_at: Moment | None = Field(default=None, description="when handling it began")
    ended_at: Moment = Field(description="when its transaction was about to be committed")
    next_at: Moment | None = Field(default=None, description="when the next attempt is due")
    who: str = Field(default="", description="the person who sent it again or discarded it")


class ServiceStatus(BaseModel):
    """How a service is doing, as its relay sees it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    at: Moment = Field(description="when its relay looked")
    outbox: int = Field(ge=0, description="events that wait in its outbox")
    oldest: Moment | None = Field(description="when the oldest of them was announced")
    refused: int = Field(ge=0, description="events that the broker refuses for good")
    retries: int = Field(ge=0, description="deliveries on its retry ladder")
    parked: int = Field(ge=0, description="parked dead letters")


class PauseReport(BaseModel):
    """A worker of the service takes no deliveries, because something it needs is down; or it takes them again."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    dependency: str = Field(description="what is down")
    error: str = Field(default="", description="why, without data of events")
    since: Moment = Field(description="when the pause began")
    at: Moment = Field(description="when this was so; it is told again every few seconds")
    is_over: bool = Field(description="whether the worker goes on")


def report_type(service: str) -> str:
    """The event type of a service's reports."""
    return f"{service}.deliveries_reported.v1"


def define_reports() -> None:
    """Add the contract of each service that reports to ``published``. Does nothing the second time."""
    for service in conf().reports:
        if report_type(service) not in published:
            _define(service)


def _define(service: str) -> None:
    class DeliveriesReported(Announced, type=report_type(service)):
        """What became of deliveries to the service. For the history of flows; no service should react to it."""

        deliveries: tuple[DeliveryReport, ...] = Field(description="in the order in which they were handled")
        status: ServiceStatus | None = Field(default=None, description="how the service is doing, every few seconds")
        pauses: tuple[PauseReport, ...] = Field(default=(), description="what its workers pause for")
