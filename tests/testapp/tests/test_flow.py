"""Events between two services whose apps are nested packages, about subjects that are plain text."""

from typing import Any

from choreography import Conflict, ContractError, Event, announce, transaction_of
from choreography.broker.publisher import Outgoing
from choreography.events.registry import reactions
from choreography.events.timers import timers
from choreography.inbox.deliveries import Done, Duplicate, RetryLater
from choreography.storage.tables import ServiceTables
from choreography.testing import Choreography, override
from tests.testapp.services.billing.models import Bill
from tests.testapp.services.billing.printer import FakePrinter
from tests.testapp.services.kitchen import services
from tests.testapp.services.kitchen.events import DishCooked
from tests.testapp.services.kitchen.models import Table


def test_the_service_of_a_reaction_is_its_django_app() -> None:
    assert {reaction.name: reaction.service for reaction in reactions()} == {
        "kitchen.record_bill": "kitchen",
        "billing.write_bill": "billing",
    }
    assert {timer.service for timer in timers() if timer.setting == "REMIND_SECONDS"} == {"billing"}


def test_an_event_travels_each_way(choreography: Choreography) -> None:
    services.cook("table 7", "soup", 850)
    services.cook("table 7", "stew", 1400)
    services.cook("table 8", "soup", 850)

    choreography.settle()

    assert {bill.table: bill.total for bill in Bill.objects.all()} == {"table 7": 2250, "table 8": 850}
    assert Table.objects.get(pk="table 7").billed == 2250
    assert all(step.outcome == Done() for step in choreography.steps)


def test_the_subject_is_the_flow_of_every_event_that_follows(choreography: Choreography) -> None:
    services.cook("table 7", "soup", 850)
    choreography.settle()

    [bill] = ServiceTables("billing").outbox
    assert bill.subject == "table 7"
    assert '"correlationid":"table 7"' in bill.body


def test_an_event_that_arrives_twice_takes_effect_once(choreography: Choreography, printer: type[FakePrinter]) -> None:
    services.cook("table 7", "soup", 850)
    choreography.relay("kitchen")
    [cooked] = ServiceTables("kitchen").outbox
    choreography.publish([Outgoing(cooked.body.encode(), cooked.event_type)])

    first, second = choreography.handle_next("billing"), choreography.handle_next("billing")

    assert first is not None
    assert second is not None
    assert (first.outcome, second.outcome) == (Done(), Duplicate())
    assert printer.lines == ["table 7: soup 850"]


def test_a_transient_fault_is_tried_again(choreography: Choreography) -> None:
    failures = [Conflict("another waiter has the bill"), Conflict("the waiter still has it")]

    def write_bill(bill: Bill, event: Event[Any], answer: str) -> None:
        if failures:
            raise failures.pop()
        original.function(bill, event, answer)

    with override("billing.write_bill", function=write_bill) as original:
        services.cook("table 7", "soup", 850)
        choreography.settle()

    assert Bill.objects.get().total == 850
    assert not ServiceTables("billing").dead_letters.exists()


def test_an_outage_of_the_printer_parks_nothing(choreography: Choreography, printer: type[FakePrinter]) -> None:
    printer.is_offline = True
    services.cook("table 7", "soup", 850)
    choreography.relay("kitchen")
    step = choreography.handle_next("billing")

    assert step is not None
    assert isinstance(step.outcome, RetryLater)
    assert step.outcome.down == "receipt printer"

    printer.is_offline = False
    choreography.settle()
    assert Bill.objects.get().total == 850


def test_an_undeclared_event_is_refused(choreography: Choreography) -> None:
    def write_bill(bill: Bill, event: Event[Any], answer: str) -> None:
        with transaction_of("kitchen"):
            announce(DishCooked(dish="soup", price=850), subject="table 7")

    with override("billing.write_bill", function=write_bill):
        services.cook("table 7", "soup", 850)
        choreography.settle()

    [dead_letter] = ServiceTables("billing").dead_letters
    assert dead_letter.error == ContractError.__name__
    assert dead_letter.message == "billing.write_bill can't announce kitchen.dish_cooked.v1: it is a fact of kitchen"
