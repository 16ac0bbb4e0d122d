"""Subscribing: one reaction per event type and service, named after its function."""

from collections.abc import Callable, Sequence

import pytest

from choreography.core.errors import ContractError
from choreography.events import registry
from choreography.events.messages import Event, Heard, Nothing
from choreography.events.registry import reaction_to, reactions, reacts_to
from payments.events import PaymentVoided


@pytest.fixture(autouse=True)
def no_reactions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "_reactions", {})


class Seen(Heard):
    reason: str


def test_a_reaction_is_named_after_its_package_and_its_function() -> None:
    @reacts_to("orders.order_cancelled.v1", "orders.order_voided.v2", announces=[PaymentVoided])
    def let_go(event: Event[Seen]) -> None: ...

    [reaction] = reactions()
    assert reaction.service == __name__.partition(".")[0]
    assert reaction.name == f"{reaction.service}.let_go"
    assert reaction.event_types == ("orders.order_cancelled.v1", "orders.order_voided.v2")
    assert reaction.reads is Seen
    assert reaction.announces == {"payments.payment_voided.v1"}
    assert reaction.function is let_go
    assert not reaction.grouped
    assert reaction_to(reaction.service, "orders.order_voided.v2") is reaction
    assert reaction_to(reaction.service, "orders.order_placed.v1") is None
    assert reaction_to("payments", "orders.order_voided.v2") is None


def test_a_grouped_reaction_reads_many_events_of_one_model_and_asks_for_all_of_them() -> None:
    def ask(events: Sequence[Event[Seen]]) -> Callable[[Event[Seen]], int]:
        return lambda event: len(events)

    @reacts_to("orders.order_cancelled.v1", calls=ask, grouped=True)
    def let_go(events: Sequence[Event[Seen]], answers: Sequence[int]) -> None: ...

    [reaction] = reactions()
    assert reaction.grouped
    assert reaction.reads is Seen
    assert reaction.calls is ask


def test_a_service_reacts_to_an_event_type_once() -> None:
    @reacts_to("orders.order_cancelled.v1")
    def one(event: Event[Nothing]) -> None: ...

    with pytest.raises(ContractError, match=r"orders.order_cancelled.v1 twice, in .*\.one and .*\.other"):

        @reacts_to("orders.order_cancelled.v1")
        def other(event: Event[Nothing]) -> None: ...


def test_two_reactions_of_one_service_have_two_names() -> None:
    def subscribe(event_type: str) -> None:
        @reacts_to(event_type)
        def same(event: Event[Nothing]) -> None: ...

    subscribe("orders.order_cancelled.v1")
    with pytest.raises(ContractError, match="two reactions named"):
        subscribe("orders.order_placed.v1")


@pytest.mark.parametrize("event_type", ["placed", "orders.OrderPlaced.v1", "orders.order_placed", "orders.x.v0", ""])
def test_an_event_type_has_a_service_a_name_and_a_version(event_type: str) -> None:
    with pytest.raises(ContractError, match=r"<service>.<event>.v<N>"):

        @reacts_to(event_type)
        def react(event: Event[Nothing]) -> None: ...


def test_a_reaction_says_what_it_reads() -> None:
    with pytest.raises(ContractError, match=r"first parameter of .*silent as Event"):

        @reacts_to("orders.order_placed.v1")
        def silent(event) -> None: ...  # type: ignore[no-untyped-def]

    with pytest.raises(ContractError, match="annotate the first parameter"):

        @reacts_to("orders.order_placed.v1")  # type: ignore[arg-type]
        def empty() -> None: ...


def test_a_reaction_to_one_event_says_event_and_one_to_many_says_sequence() -> None:
    with pytest.raises(ContractError, match=r"many as Sequence\[Event\["):

        @reacts_to("orders.order_placed.v1", grouped=True)  # type: ignore[arg-type]
        def many(event: Event[Seen]) -> None: ...

    with pytest.raises(ContractError, match=r"many as Sequence\[Event\["):

        @reacts_to("orders.order_placed.v1", grouped=True)  # type: ignore[arg-type]
        def many(events: list[Event[Seen]]) -> None: ...

    with pytest.raises(ContractError, match=r"one as Event\["):

        @reacts_to("orders.order_placed.v1")  # type: ignore[arg-type]
        def one(events: Sequence[Event[Seen]]) -> None: ...

    assert reactions() == []
