"""What a delivery says of itself."""

from typing import Any

import pytest

from choreography.inbox.deliveries import (
    ATTEMPTS,
    CAME_BACK,
    DEAD_LETTER,
    FIRST_SEEN,
    GIVEN_UP,
    PUBLISHED,
    WAITS,
    reason_of_death,
)
from tests.unit.choreography.authorizing import placed


@pytest.mark.parametrize("deaths", [None, [], [{}], "odd", [3]], ids=repr)
def test_a_death_without_a_note_has_an_unknown_reason(deaths: object) -> None:
    assert reason_of_death({"x-death": deaths}) == reason_of_death({}) == "unknown"
    assert reason_of_death({"x-death": [{"reason": "rejected"}]}) == "rejected"


@pytest.mark.parametrize(
    ("changes", "failed"),
    [
        ({}, False),
        ({"headers": {ATTEMPTS: 0, WAITS: 3, FIRST_SEEN: "2026-01-01T00:00:00+00:00"}}, False),
        ({"headers": {ATTEMPTS: 1, WAITS: 0, FIRST_SEEN: "2026-01-01T00:00:00+00:00"}}, True),
        ({"headers": {DEAD_LETTER: "key"}}, True),
        ({"headers": {GIVEN_UP: "rejected"}}, False),
        ({"given_up": "delivery_limit"}, False),
    ],
    ids=["new", "has waited", "has failed", "was parked", "was given up and is not run", "comes from the dead"],
)
def test_what_has_failed_before_is_told_from_what_has_waited(changes: Any, failed: bool) -> None:
    assert placed(**changes).has_failed is failed


@pytest.mark.parametrize(
    ("header", "known"),
    [
        ("2026-01-01T00:00:00+00:00", True),
        ("2026-01-01T00:00:00", False),
        ("9999-12-31T23:59:59-12:00", False),
        ("0001-01-01T00:00:00+14:00", False),
        ("yesterday", False),
        (["2026-01-01T00:00:00+00:00"], False),
    ],
    ids=str,
)
def test_when_it_was_published_is_a_moment_or_unknown(header: object, known: bool) -> None:
    assert (placed(headers={PUBLISHED: header}).published_at is not None) is known


@pytest.mark.parametrize(
    ("changes", "suspect"),
    [
        ({}, False),
        ({"headers": {"x-delivery-count": 1}}, False),
        ({"headers": {"x-delivery-count": 2}}, True),
        ({"headers": {"x-delivery-count": 1, CAME_BACK: 1}}, True),
        ({"headers": {"x-delivery-count": "rubbish"}}, False),
        ({"headers": {"x-delivery-count": 20}, "given_up": "delivery_limit"}, False),
    ],
    ids=[
        "new",
        "met a worker that ended",
        "may end workers",
        "was suspect when it was retried",
        "counted by a stranger",
        "will be parked",
    ],
)
def test_what_met_workers_that_ended_is_suspect(changes: Any, suspect: bool) -> None:
    assert placed(**changes).is_suspect is suspect
