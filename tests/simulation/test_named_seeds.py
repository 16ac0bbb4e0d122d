"""Histories worth keeping, as the actions they need and no more: seeds change their meaning with the generator.

Each was found by the simulation: under a bug planted on purpose, or while the simulation itself had one. A history
that finds a bug in the product belongs here too, with a line that says what it was.
"""

from contextlib import nullcontext

import pytest

from choreography.simulation import Fault
from choreography.simulation.actions import Action, Handle, Meanwhile, Pass, Relay, Repeat, Tick, numbered
from choreography.simulation.schedules import LAST
from tests.simulation.actions import Cancel, Place
from tests.simulation.planted import planted
from tests.simulation.run import Simulator

#: The provider lets go of a hold that has expired, and payments can't enter it. The parcel is sent meanwhile, and its
#: capture is refused until a later tick has entered what the provider did. (Peace once came without ticks.)
LET_GO_AND_NOT_ENTERED = [
    Place("tok_capture_timeout"),
    Relay("orders"),
    Handle("payments", 0, Fault("dies", "acknowledge")),
    Pass(4000.0),
    Tick("payments.expire_authorizations", Fault("fails", "statement", 2)),
]

#: While the first copy asks what became of an earlier call, the order is cancelled and a second copy enters that
#: nothing was held. Then the first holds the money, and nobody ever looks at it again.
TWO_COPIES_ASK = [
    Place(),
    Meanwhile(
        "gateway.find",
        (
            Relay("orders"),
            *(Handle("shipping"), Handle("shipping"), Relay("shipping")),
            *(Handle("orders"), Relay("orders")),
            *(Handle("payments"), Repeat(None), Handle("payments")),
        ),
    ),
    Relay("orders"),
    Cancel(0),
    Handle("payments", 0, Fault("dies", "before commit", 1)),
]

#: The carrier is being asked when the cancellation is granted: cancelled, and sent.
CANCELLED_WHILE_THE_CARRIER_IS_ASKED = [
    Place(),
    Relay("orders"),
    *(Handle("shipping"), Handle("payments"), Relay("payments")),
    Meanwhile("carrier.find", (Cancel(None), Relay("orders"), Handle("shipping", LAST))),
    Handle("shipping"),
]


@pytest.mark.parametrize(
    ("plant", "actions", "invariant"),
    [
        (None, LET_GO_AND_NOT_ENTERED, None),
        ("no_claim", TWO_COPIES_ASK, "cancelled_leaves_nothing"),
        ("cancel_while_dispatching", CANCELLED_WHILE_THE_CARRIER_IS_ASKED, "never_cancelled_and_shipped"),
    ],
)
def test_it_ends_well_unless_the_protection_is_gone(
    shops: Simulator, plant: str | None, actions: list[Action], invariant: str | None
) -> None:
    schedule = numbered(actions)
    kept = shops.run(schedule, 1)
    assert kept.violation is None, "\n".join([str(kept.violation), *kept.story])

    with planted(plant) if plant else nullcontext():
        violation = shops.run(schedule, 1).violation
    assert (violation and violation.invariant) == invariant
