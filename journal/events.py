"""The facts journal announces."""

from pydantic import Field

from choreography.events.messages import Announced


class FlowOverdue(Announced, type="journal.flow_overdue.v1", for_others=True):
    """Something is wrong with a flow: an event is missing, one can't be, or nothing more is to come."""

    kind: str = Field(description="what is wrong: missing, illegal or stalled")
    what: str = Field(description="what is wrong, as a sentence, without personal data")
    culprit: str = Field(description="the service to look at; empty if that can't be told")
    remedy: str = Field(description="what to do about it")
