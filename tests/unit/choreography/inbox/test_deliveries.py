"""What a delivery says of itself."""

from typing import Any

import pytest

from choreography.inbox.deliveries import ATTEMPTS, DEAD_LETTER, FIRST_SEEN, GIVEN_UP, WAITS, reason_of_death
from tests.unit.choreography.authorizing import placed


@pytest.mark.parametrize("deaths", [None, [], [{}], "odd", [3]], ids=repr)
def test_a_death_without_a_note_has_an_unknown_reason(deaths: object) -> None:
    assert reason_of_death({"x-death": deaths}) == reason_of_death({}) == "unknown"
    assert reason_of_death({"x-death": [{"reason": "rejected"}]}) == "rejected"


@pytest.mark.parametrize(
    ("changes", "suspect"),
    [
        ({}, False),
        ({"headers": {ATTEMPTS: 0, WAITS: 3, FIRST_SEEN: "2026-01-01T00:00:00+00:00"}}, False),
        ({"headers": {ATTEMPTS: 1, WAITS: 0, FIRST_SEEN: "2026-01-01T00:00:00+00:00"}}, True),
        ({"headers": {DEAD_LETTER: "key"}}, True),
        ({"headers": {GIVEN_UP: "rejected"}}, True),
        ({"given_up": "delivery_limit"}, True),
        ({"headers": {"x-delivery-count": 2}}, False),
        ({"headers": {"x-delivery-count": 3}}, True),
        ({"headers": {"x-delivery-count": "rubbish"}}, False),
    ],
    ids=[
        "new",
        "has waited",
        "has failed",
        "was parked",
        "was given up",
        "comes from the dead",
        "met a worker that ended, or two",
        "may end workers",
        "counted by a stranger",
    ],
)
def test_what_has_failed_before_is_suspect_and_what_has_waited_is_not(changes: Any, suspect: bool) -> None:
    assert placed(**changes).is_suspect is suspect
