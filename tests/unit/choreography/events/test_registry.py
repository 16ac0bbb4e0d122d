"""Subscribing: one reaction per event type and service, named after its app and its function."""

from collections.abc import Callable
from typing import Any

import pytest
from django.test import override_settings

from choreography.core.errors import ContractError
from choreography.events import registry
from choreography.events.external_systems import ExternalSystem
from choreography.events.messages import Event, Heard, Nothing
from choreography.events.registry import overridden, reaction_to, reactions, reacts_to
from payments.events import PaymentVoided
from payments.models import Payment
from tests.testapp.warehouse.packing import pack_box


@pytest.fixture(autouse=True)
def no_reactions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "_reactions", {})
    monkeypatch.setattr(registry, "_names", {})


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
    assert (reaction.rows, reaction.prepare, reaction.ask, reaction.external_system) == (None, None, None, None)
    assert reaction_to(reaction.service, "orders.order_voided.v2") is reaction
    assert reaction_to(reaction.service, "orders.order_placed.v1") is None
    assert reaction_to("payments", "orders.order_voided.v2") is None


def test_the_service_of_a_reaction_is_its_django_app_even_in_a_nested_package() -> None:
    with override_settings(INSTALLED_APPS=["tests.testapp.warehouse"]):
        reacts_to("orders.order_placed.v1")(pack_box)

    [reaction] = reactions("warehouse")
    assert (reaction.service, reaction.name) == ("warehouse", "warehouse.pack_box")
    assert reaction_to("warehouse", "orders.order_placed.v1") is reaction


def test_a_reaction_keeps_its_rows_what_it_prepares_and_what_it_asks() -> None:
    system = ExternalSystem[object]("oracle", "ORACLE", reads=(), probe=str)

    def prepare(payment: Payment, event: Event[Seen]) -> None: ...

    def ask(payment: Payment, event: Event[Seen]) -> int:
        return 1

    @reacts_to("orders.order_cancelled.v1", rows=Payment.objects, prepare=prepare, ask=ask, external_system=system)
    def let_go(payment: Payment, event: Event[Seen], answer: int) -> None: ...

    [reaction] = reactions()
    assert reaction.reads is Seen
    assert (reaction.rows, reaction.prepare, reaction.ask) == (Payment.objects, prepare, ask)
    assert reaction.external_system is system


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


def no_parameters() -> None: ...


def event_only(event: Event[Seen]) -> None: ...


def row_and_event(row: Any, event: Event[Seen]) -> None: ...


def event_and_answer(event: Event[Seen], answer: Any) -> None: ...


def all_three(row: Any, event: Event[Seen], answer: Any) -> None: ...


ROWS, ASK = {"rows": Payment.objects}, {"ask": lambda *_: None}


@pytest.mark.parametrize(
    ("options", "function"),
    [({}, event_only), (ROWS, row_and_event), (ASK, event_and_answer), (ROWS | ASK, all_three)],
    ids=["event", "row and event", "event and answer", "row, event and answer"],
)
def test_a_reaction_takes_a_row_where_there_are_rows_and_an_answer_where_it_asks(
    options: dict[str, Any], function: Callable[..., None]
) -> None:
    reacts_to("orders.order_placed.v1", **options)(function)
    [reaction] = reactions()
    assert reaction.reads is Seen


@pytest.mark.parametrize(
    ("options", "function", "message"),
    [
        ({}, no_parameters, "no_parameters takes 0 parameters; it is called with 1: event"),
        ({}, event_and_answer, "event_and_answer takes 2 parameters; it is called with 1: event"),
        (ROWS, event_only, "event_only takes 1 parameters; it is called with 2: row, event"),
        (ROWS, all_three, "all_three takes 3 parameters; it is called with 2: row, event"),
        (ASK, event_only, "event_only takes 1 parameters; it is called with 2: event, answer"),
        (ROWS | ASK, row_and_event, "row_and_event takes 2 parameters; it is called with 3: row, event, answer"),
    ],
)
def test_a_reaction_with_too_few_or_too_many_parameters_is_refused(
    options: dict[str, Any], function: Callable[..., None], message: str
) -> None:
    with pytest.raises(ContractError, match=f"^{message}$"):
        reacts_to("orders.order_placed.v1", **options)(function)
    assert reactions() == []


def unannotated(event) -> None: ...  # type: ignore[no-untyped-def]


def many(event: list[Event[Seen]]) -> None: ...


def unparametrized(event: Event) -> None: ...  # type: ignore[type-arg]


@pytest.mark.parametrize("function", [unannotated, many, unparametrized])
def test_a_reaction_says_what_it_reads(function: Callable[..., None]) -> None:
    with pytest.raises(ContractError, match=rf"annotate the parameter event of {function.__name__} as Event\["):
        reacts_to("orders.order_placed.v1")(function)
    assert reactions() == []


def test_what_a_reaction_reads_is_annotated_at_the_event_and_not_at_the_row() -> None:
    with pytest.raises(ContractError, match=r"annotate the parameter event of .*reversed_order"):

        @reacts_to("orders.order_placed.v1", rows=Payment.objects)
        def reversed_order(row: Event[Seen], event: Payment) -> None: ...


def test_a_reaction_is_changed_for_a_block_and_restored_after_an_error() -> None:
    reacts_to("orders.order_placed.v1")(event_only)
    [original] = reactions()

    with overridden(original.name, reads=Nothing) as given:
        assert given is original
        [changed] = reactions()
        assert reaction_to(original.service, "orders.order_placed.v1") is changed
        assert (changed.function, changed.reads) == (event_only, Nothing)
    assert reactions() == [original]

    with pytest.raises(ZeroDivisionError), overridden(original.name, reads=Nothing):
        raise ZeroDivisionError
    assert reactions() == [original]


def test_a_reaction_that_does_not_exist_cannot_be_changed() -> None:
    with pytest.raises(KeyError, match=r"payments\.dream"), overridden("payments.dream"):
        pytest.fail("changed something")
