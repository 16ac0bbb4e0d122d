"""A simulation finds bugs in a project's own reactions, and tells them in a story a newcomer can follow."""

from collections import Counter
from typing import Any

import pytest
from django.core.exceptions import ImproperlyConfigured
from django.db import connections

from choreography.simulation import Simulation
from choreography.testing import override
from tests.testapp.services.billing.models import Bill
from tests.testapp.services.billing.printer import FakePrinter
from tests.testapp.services.kitchen import services
from tests.testapp.services.kitchen.models import Table

pytestmark = pytest.mark.django_db(databases="__all__", transaction=True)


def cook_soup() -> None:
    services.cook("table 7", "soup", 850)


def every_dish_is_billed_once() -> None:
    dishes = sum(Table.objects.values_list("dishes", flat=True))
    billed = sum(Bill.objects.values_list("total", flat=True))
    assert billed == 850 * dishes, f"{dishes} dishes, {billed} cents"


def simulation() -> Simulation:
    return Simulation(begin={"soup is cooked": cook_soup}, invariants=[every_dish_is_billed_once])


def test_services_without_a_bug_come_to_a_good_end_whatever_happens() -> None:
    failure = simulation().find_failure(seeds=range(40))

    assert failure is None, failure.story


def test_a_reaction_that_keeps_its_state_outside_the_transaction_is_found() -> None:
    """What it counts in memory is counted again when the transaction is rolled back."""
    totals: Counter[str] = Counter()

    def write_bill(bill: Bill, event: Any, answer: str) -> None:
        totals[event.id] += event.data.price
        bill.total += totals[event.id]

    with override("billing.write_bill", function=write_bill):
        failure = simulation().find_failure(seeds=range(200))

    assert failure is not None
    assert failure.violation.invariant == "every_dish_is_billed_once"
    assert len(failure.schedule) <= 6, failure.story
    assert "soup is cooked" in failure.story
    assert "billing" in failure.story
    assert f"Seed {failure.seed} violates every_dish_is_billed_once: " in failure.story


def test_a_reaction_with_a_bug_is_found_by_itself() -> None:
    def write_bill(bill: Bill, event: Any, answer: str) -> None:
        if bill.total:
            raise ZeroDivisionError("only with a second dish")
        bill.total += event.data.price

    with override("billing.write_bill", function=write_bill):
        failure = simulation().find_failure(seeds=range(200))

    assert failure is not None
    assert failure.violation.invariant in ("no_reaction_has_a_bug", "no_batch_has_a_bug")
    assert "only with a second dish" in failure.story


def test_a_seed_is_the_same_history_every_time(printer: type[FakePrinter]) -> None:
    def fail() -> None:
        raise AssertionError("always")

    always_failing = Simulation(begin={"soup is cooked": cook_soup}, invariants=[fail])
    stories = []
    for _ in range(2):
        failure = always_failing.run(always_failing.schedule(3), seed=3)
        assert failure is not None
        stories.append(failure.story)

    assert stories[0] == stories[1]


def test_a_database_that_is_not_one_of_a_test_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    cook_soup()
    monkeypatch.setitem(connections["kitchen"].settings_dict, "NAME", "/srv/kitchen.sqlite3")

    with pytest.raises(ImproperlyConfigured, match=r"not a test database but /srv/kitchen.sqlite3"):
        simulation().find_failure(seeds=[1])

    assert Table.objects.count() == 1
