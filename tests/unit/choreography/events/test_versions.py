"""Functions between versions of an event: what they must look like, and what a gap between them means."""

from collections.abc import Iterator

import pytest
from pydantic import Field

from choreography.core.errors import ContractError
from choreography.events import registry, versions
from choreography.events.messages import Announced, Event, Heard, family_of, published
from choreography.events.registry import reacts_to
from choreography.events.versions import chain, downcasts, faults, lift, older_versions, reaction_of, reads, upcasts


class Heard1(Heard):
    name: str


class Heard2(Heard):
    names: tuple[str, ...]


class Heard3(Heard):
    people: dict[str, str]


@pytest.fixture(autouse=True)
def apart(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Events, reactions and functions of a test are gone after it."""
    for module, name in (
        (versions, "_downcasts"),
        (versions, "_upcasts"),
        (registry, "_reactions"),
        (registry, "_names"),
    ):
        monkeypatch.setattr(module, name, {})
    known = dict(published)
    yield
    published.clear()
    published.update(known)


def test_a_chain_leads_from_the_oldest_version_to_what_the_reaction_reads() -> None:
    @upcasts("guests.guest_seated.v1")
    def from_v1(old: Heard1) -> Heard2:
        return Heard2(names=(old.name,))

    @upcasts("guests.guest_seated.v2")
    def from_v2(old: Heard2) -> Heard3:
        return Heard3(people=dict.fromkeys(old.names, "guest"))

    @reacts_to("guests.guest_seated.v3")
    def greet(event: Event[Heard3]) -> None: ...

    reaction = reaction_of("tests", "guests.guest_seated.v1")

    assert reaction is not None
    assert reaction.function is greet
    assert reads(reaction, "guests.guest_seated.v1") is Heard1
    assert lift(reaction, "guests.guest_seated.v1", Heard1(name="Ada")) == Heard3(people={"Ada": "guest"})
    assert reads(reaction, "guests.guest_seated.v3") is Heard3
    assert [*faults()] == []


def test_a_gap_in_the_chain_is_found_at_startup() -> None:
    @upcasts("guests.guest_seated.v1")
    def from_v1(old: Heard1) -> Heard2:
        return Heard2(names=(old.name,))

    @reacts_to("guests.guest_seated.v3")
    def greet(event: Event[Heard3]) -> None: ...

    [fault] = faults()

    assert fault.startswith("tests.from_v1 makes Heard2 of guests.guest_seated.v1, and what is read next is Heard3")
    reaction = reaction_of("tests", "guests.guest_seated.v3")
    assert reaction is not None
    with pytest.raises(ContractError):
        chain(reaction, "guests.guest_seated.v1")


def test_an_upcast_that_leads_nowhere_is_found_at_startup() -> None:
    @upcasts("guests.guest_seated.v1")
    def from_v1(old: Heard1) -> Heard2:
        return Heard2(names=(old.name,))

    assert [*faults()] == [
        "tests.from_v1 reads guests.guest_seated.v1, and no reaction of tests reads a newer version: delete it"
    ]


def test_two_reactions_to_versions_of_one_fact_are_refused() -> None:
    @reacts_to("guests.guest_seated.v1")
    def greet(event: Event[Heard1]) -> None: ...

    @reacts_to("guests.guest_seated.v2")
    def greet_all(event: Event[Heard2]) -> None: ...

    assert all("would both react to one fact" in fault for fault in faults())
    assert len([*faults()]) == 2


def test_a_fact_is_announced_in_every_version_there_is() -> None:
    class Seated1(Announced, type="guests.guest_seated.v1"):
        name: str = Field(description="who")

    class Seated2(Announced, type="guests.guest_seated.v2"):
        names: tuple[str, ...] = Field(description="who")

    @downcasts
    def seated_v1(fact: Seated2) -> Seated1:
        return Seated1(name=", ".join(fact.names))

    assert [*older_versions(Seated2(names=("Ada", "Eve")))] == [Seated1(name="Ada, Eve")]


def test_a_function_that_makes_no_older_version_is_refused() -> None:
    class Seated1(Announced, type="guests.guest_seated.v1"):
        name: str = Field(description="who")

    class Left(Announced, type="guests.guest_left.v1"):
        name: str = Field(description="who")

    with pytest.raises(ContractError, match=r"left_of must make an older version of guests.guest_seated.v1"):

        @downcasts
        def left_of(fact: Seated1) -> Left:
            return Left(name=fact.name)

    with pytest.raises(ContractError, match="unclear with the one version it takes"):

        @downcasts
        def unclear(fact: Seated1):  # type: ignore[no-untyped-def]
            return fact


def test_a_second_function_for_one_version_is_refused() -> None:
    @upcasts("guests.guest_seated.v1")
    def from_v1(old: Heard1) -> Heard2:
        return Heard2(names=(old.name,))

    with pytest.raises(ContractError, match=r"tests reads guests.guest_seated.v1 in two ways"):
        upcasts("guests.guest_seated.v1")(from_v1)


def test_versions_of_an_event_are_a_family() -> None:
    assert family_of("orders.order_placed.v12") == "orders.order_placed"
