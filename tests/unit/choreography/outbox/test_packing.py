"""Events that wait together share messages, and those of a subject still arrive in their order."""

from pathlib import Path
from random import Random

import pytest
from pytest_django.fixtures import Settings

from choreography.core.conf import conf
from choreography.events.messages import BATCH_CONTENT_TYPE, CONTENT_TYPE, events_in, family_of, is_batched
from choreography.outbox.packing import Row, pack, sent_alone

PLACED, CANCELLED, OLDER = "orders.order_placed.v2", "orders.order_cancelled.v1", "orders.order_placed.v1"


def row(event_type: str, subject: str, number: int = 0, size: int = 0) -> Row:
    return Row(number, f"id {number}", event_type, subject, f'{{"n": {number}}}'.ljust(size))


def held(events: list[Row]) -> list[list[int]]:
    return [[*package.indexes] for package in pack(events)]


def test_one_event_is_a_message_as_it_is() -> None:
    [package] = pack([row(PLACED, "a")])

    assert (package.message.body, package.message.content_type) == (b'{"n": 0}', CONTENT_TYPE)
    assert package.message.message_id == "id 0"


def test_events_of_a_type_share_a_message() -> None:
    [package] = pack([row(PLACED, subject, number) for number, subject in enumerate("abc")])

    assert package.message.content_type == BATCH_CONTENT_TYPE
    assert events_in(package.message.body) == [b'{"n": 0}', b'{"n": 1}', b'{"n": 2}']
    assert package.message.message_id is None


def test_a_message_has_one_exchange() -> None:
    events = [row(PLACED, "a"), row(CANCELLED, "b"), row(PLACED, "c"), row(CANCELLED, "d")]

    assert held(events) == [[0, 2], [1, 3]]


def test_an_event_never_overtakes_an_earlier_one_of_its_subject() -> None:
    events = [row(CANCELLED, "b"), row(PLACED, "a"), row(CANCELLED, "a"), row(PLACED, "c")]

    assert held(events) == [[0], [1], [2], [3]]


def test_versions_of_a_fact_may_overtake_one_another() -> None:
    events = [row(PLACED, "a"), row(OLDER, "a"), row(PLACED, "b"), row(OLDER, "b")]

    assert held(events) == [[0, 2], [1, 3]]


@pytest.mark.parametrize("seed", range(30))
def test_whatever_waits_each_event_is_in_one_message_and_subjects_keep_their_order(seed: int) -> None:
    chance = Random(seed)
    types = [PLACED, OLDER, CANCELLED, "orders.order_completed.v1"]
    events = [row(chance.choice(types), chance.choice("abcdefgh"), number) for number in range(200)]

    packed = pack(events)

    order = [index for package in packed for index in package.indexes]
    assert sorted(order) == list(range(len(events)))
    assert len(packed) < len(events)
    for subject in "abcdefgh":
        arriving = [index for index in order if events[index].subject == subject]
        families = [family_of(events[index].type) for index in arriving]
        assert families == [family_of(event.type) for event in events if event.subject == subject]
        for event_type in types:
            of_type = [index for index in arriving if events[index].type == event_type]
            assert of_type == sorted(of_type)
    for package in packed:
        assert len({events[index].type for index in package.indexes}) == 1
        assert is_batched(package.message.content_type) == (len(package.indexes) > 1)


def test_a_message_has_a_limit(settings: Settings) -> None:
    settings.CHOREOGRAPHY = settings.CHOREOGRAPHY | {"EVENTS_PER_MESSAGE": 2}
    assert held([row(PLACED, str(number)) for number in range(5)]) == [[0, 1], [2, 3], [4]]

    settings.CHOREOGRAPHY = settings.CHOREOGRAPHY | {"EVENTS_PER_MESSAGE": 50}
    large = [row(PLACED, str(number), size=100 * 1024) for number in range(5)]
    assert held(large) == [[0, 1], [2, 3], [4]]
    assert held([row(PLACED, "a", size=500 * 1024), row(PLACED, "b")]) == [[0], [1]]


def test_a_setting_names_events_that_are_sent_alone(settings: Settings) -> None:
    settings.CHOREOGRAPHY = settings.CHOREOGRAPHY | {"SENT_ALONE": [PLACED]}
    events = [row(PLACED, "a"), row(PLACED, "b"), row(CANCELLED, "c"), row(CANCELLED, "d")]

    assert held(events) == [[0], [1], [2, 3]]


def test_a_reader_says_in_its_file_that_it_does_not_take_batches(settings: Settings, tmp_path: Path) -> None:
    settings.CHOREOGRAPHY = settings.CHOREOGRAPHY | {"CONTRACTS_DIR": tmp_path}
    (tmp_path / "readers").mkdir()
    (tmp_path / "readers" / "warehouse.json").write_text(
        '{"service": "warehouse", "reads": [{"reaction": "warehouse.pick", "event_types": ["orders.order_placed.v2"],'
        ' "schema": {}, "batches": false}]}'
    )
    sent_alone.cache_clear()

    assert sent_alone() == {PLACED}
    assert conf().events_per_message > 1
