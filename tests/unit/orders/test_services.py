"""What orders can do, and what it refuses."""

from collections.abc import Iterator
from typing import Any
from uuid import uuid4

import pytest
from django.core.exceptions import ValidationError
from django.db import IntegrityError, OperationalError

from choreography.core import clock
from choreography.events.messages import Event
from choreography.events.registry import Reaction, reactions
from choreography.outbox.announcing import transaction_of
from choreography.testing import FrozenClock
from orders import services
from orders.models import (
    MAX_PRICE,
    MAX_QUANTITY,
    CancellationPending,
    Order,
    OrderFinished,
    OrderLine,
    Outbox,
    Product,
    UnknownOrder,
)
from orders.services import MAX_LINES, Pick, SubmittedTwice, place_order, request_cancellation
from tests.unit.orders.holding import holding

pytestmark = pytest.mark.django_db(databases="__all__")


@pytest.fixture(autouse=True)
def frozen() -> Iterator[FrozenClock]:
    frozen = FrozenClock()
    with clock.use_clock(frozen):
        yield frozen


def product(name: str = "Tea", price: int = 1250, currency: str = "EUR", **more: Any) -> Product:
    return Product.objects.create(sku=name.upper(), name=name, price=price, currency=currency, **more)


def draft(**changes: Any) -> Order:
    fields = {
        "customer_name": "Ada Example",
        "customer_email": "ada@example.org",
        "street": "Main Street 1",
        "city": "Bonn",
        "postal_code": "53111",
        "country": "DE",
        "payment_token": "tok_approved",
    }
    return Order(**fields | changes)


def place(*picks: Pick, **changes: Any) -> Order:
    return place_order(draft(**changes), picks or [Pick(product(), 1)])


def announced(order: Order) -> list[str]:
    return [row.event_type for row in Outbox.objects.filter(subject=order.pk).order_by("position")]


def nothing_was_stored() -> bool:
    return not (Order.objects.exists() or OrderLine.objects.exists() or Outbox.objects.exists())


# Placing


def test_an_order_is_stored_with_its_lines_and_announced() -> None:
    tea, cups = product(), product("Cups", 400)
    order = place(Pick(tea, 2), Pick(cups, 6))

    stored = Order.objects.get()
    assert (stored.status, stored.total, stored.currency) == (Order.Status.PLACED, 4900, "EUR")
    lines = stored.lines.values_list("sku", "name", "quantity", "unit_price")
    assert set(lines) == {("TEA", "Tea", 2, 1250), ("CUPS", "Cups", 6, 400)}
    assert announced(order) == ["orders.order_placed.v2", "orders.order_placed.v1"]


def test_a_line_keeps_the_price_it_was_ordered_at() -> None:
    tea = product()
    order = place(Pick(tea, 1))
    Product.objects.update(price=9999, name="Dear Tea")
    line = order.lines.get()
    assert (line.name, line.unit_price) == ("Tea", 1250)


def test_two_of_one_product_become_one_line() -> None:
    tea = product()
    order = place(Pick(tea, 2), Pick(tea, 3))
    assert [line.quantity for line in order.lines.all()] == [5]
    assert order.total == 5 * 1250


def test_a_currency_without_decimals_is_as_good_as_any() -> None:
    assert place(Pick(product(price=500, currency="KRW"), 3)).total == 1500


@pytest.mark.parametrize("quantity", [0, -1, MAX_QUANTITY + 1, 10**30])
def test_an_absurd_quantity_is_refused(quantity: int) -> None:
    with pytest.raises(ValidationError, match=f"Tea: the quantity is {quantity}. Give a number from 1 to 1000"):
        place(Pick(product(), quantity))
    assert nothing_was_stored()


@pytest.mark.parametrize("quantities", [(3, -1), (1, 0), (0, 0), (MAX_QUANTITY, 1)])
def test_lines_of_one_product_do_not_hide_an_absurd_quantity(quantities: tuple[int, int]) -> None:
    tea = product()
    with pytest.raises(ValidationError, match="the quantity is"):
        place(*(Pick(tea, quantity) for quantity in quantities))
    assert nothing_was_stored()


def test_an_order_without_lines_is_refused() -> None:
    with pytest.raises(ValidationError, match="at least one line"):
        place_order(draft(), [])
    assert nothing_was_stored()


def test_too_many_lines_are_refused() -> None:
    picks = [Pick(product(f"Tea {number}"), 1) for number in range(MAX_LINES + 1)]
    with pytest.raises(ValidationError, match="At most 100 lines"):
        place(*picks)
    assert nothing_was_stored()


def test_an_inactive_product_is_refused() -> None:
    with pytest.raises(ValidationError, match="Tea is not sold any more"):
        place(Pick(product(active=False), 1))
    assert nothing_was_stored()


def test_mixed_currencies_are_refused() -> None:
    with pytest.raises(ValidationError, match="The lines are in EUR, KRW"):
        place(Pick(product(), 1), Pick(product("Cups", 5, "KRW"), 1))
    assert nothing_was_stored()


def test_a_total_too_large_is_refused() -> None:
    with pytest.raises(ValidationError, match="The total is more than"):
        place(Pick(product(price=MAX_PRICE), 101))
    assert nothing_was_stored()


def test_every_fault_is_named() -> None:
    with pytest.raises(ValidationError) as refused:
        place(Pick(product(active=False), 0), Pick(product("Cups", 5, "KRW"), 0))
    assert len(refused.value.messages) == 4


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("country", "XX"),
        ("country", "de"),
        ("country", ""),
        ("postal_code", "<script>"),
        ("street", ""),
        ("street", "---"),
        ("street", "Main\nStreet"),
        ("street", "x" * 201),
        ("city", "\0"),
        ("customer_name", " "),
        ("customer_email", "nobody"),
        ("payment_token", "4242 4242"),
        ("payment_token", ""),
    ],
)
def test_a_malformed_field_is_refused_by_its_name(field: str, value: str) -> None:
    with pytest.raises(ValidationError) as refused:
        place(**{field: value})
    assert list(refused.value.message_dict) == [field]
    assert nothing_was_stored()


def test_an_unknown_currency_is_refused() -> None:
    with pytest.raises(ValidationError, match="Tea is priced in XXX"):
        place(Pick(product(currency="XXX"), 1))
    assert nothing_was_stored()


def test_the_same_form_twice_makes_one_order() -> None:
    form, tea = uuid4(), product()
    first = place(Pick(tea, 1), submission=form)
    with pytest.raises(SubmittedTwice, match=first.number) as refused:
        place(Pick(tea, 1), submission=form)
    assert refused.value.order == first
    assert Order.objects.count() == OrderLine.objects.count() == Outbox.objects.filter(fact_id=None).count() == 1


def test_orders_without_a_form_are_as_many_as_were_placed() -> None:
    tea = product()
    place(Pick(tea, 1))
    place(Pick(tea, 1))
    assert Order.objects.count() == 2


@pytest.mark.parametrize("fault", [OperationalError("database or disk is full"), IntegrityError("not the form's")])
def test_an_order_that_cannot_be_announced_is_not_placed(monkeypatch: pytest.MonkeyPatch, fault: Exception) -> None:
    def fail(*args: Any, **kwargs: Any) -> None:
        raise fault

    monkeypatch.setattr(services, "announce", fail)
    with pytest.raises(type(fault)):
        place(submission=uuid4())
    assert nothing_was_stored()


# Cancelling


def test_a_cancellation_locks_the_order_and_is_announced() -> None:
    order = place()
    request_cancellation(order.pk, "changed_mind")
    order.refresh_from_db()
    assert (order.status, order.reason) == (Order.Status.CANCELLING, "changed_mind")
    assert announced(order)[-1] == "orders.cancellation_requested.v1"


def test_an_unknown_order_cannot_be_cancelled() -> None:
    with pytest.raises(UnknownOrder):
        request_cancellation(uuid4())


def test_a_cancellation_that_is_being_decided_is_not_asked_for_again() -> None:
    order = place()
    request_cancellation(order.pk)
    with pytest.raises(CancellationPending, match="being decided already"):
        request_cancellation(order.pk)
    assert announced(order).count("orders.cancellation_requested.v1") == 1


@pytest.mark.parametrize("end", ["cancelled", "completed"])
def test_a_finished_order_cannot_be_cancelled(end: str) -> None:
    order = place()
    finish(order, end)
    before = announced(order)
    with pytest.raises(OrderFinished, match=f"is {end}"):
        request_cancellation(order.pk)
    assert announced(order) == before


@pytest.mark.parametrize("end", ["cancelled", "completed"])
def test_asking_only_an_open_order_leaves_a_finished_one_alone(end: str) -> None:
    order = place()
    finish(order, end)
    before = announced(order)
    with holding(order) as held:
        services.cancel_if_open(held, "authorization_expired")
        services.cancel_if_unpaid(held)
    assert announced(order) == before


def test_an_order_paid_for_at_the_last_moment_is_not_cancelled_as_unpaid() -> None:
    """The timer saw it unpaid; payments' answer was recorded before the timer came to it."""
    order = place()
    with holding(order) as held:
        services.record_authorization(held, clock.now())
    with holding(order) as held:
        services.cancel_if_unpaid(held)
    order.refresh_from_db()
    assert order.status == Order.Status.AUTHORIZED


def finish(order: Order, end: str) -> None:
    with holding(order) as held:
        if end == "cancelled":
            services.cancel_order(held, "expired_card", clock.now())
        else:
            services.record_capture(held, clock.now())
            services.record_delivery(held, clock.now())


# Recording what others said


def test_the_order_is_complete_when_delivered_and_paid_in_whichever_order() -> None:
    tea = product()
    for first, second in (
        (services.record_capture, services.record_delivery),
        (services.record_delivery, services.record_capture),
    ):
        order = place(Pick(tea, 1))
        with holding(order) as held:
            first(held, clock.now())
        assert "orders.order_completed.v1" not in announced(order)
        with holding(order) as held:
            second(held, clock.now())
        assert announced(order).count("orders.order_completed.v1") == 1


def test_a_second_reason_to_cancel_changes_nothing() -> None:
    order = place()
    finish(order, "cancelled")
    with holding(order) as held:
        services.cancel_order(held, "customer_request", clock.now())
    order.refresh_from_db()
    assert order.reason == "expired_card"
    assert announced(order).count("orders.order_cancelled.v1") == 1


def test_a_delivered_order_is_not_cancelled_and_a_cancelled_one_not_delivered() -> None:
    tea = product()
    delivered, cancelled = place(Pick(tea, 1)), place(Pick(tea, 1))
    finish(delivered, "completed")
    finish(cancelled, "cancelled")
    with pytest.raises(OrderFinished), holding(delivered) as held:
        services.cancel_order(held, "lost", clock.now())
    with pytest.raises(OrderFinished), holding(cancelled) as held:
        services.record_delivery(held, clock.now())


def test_a_capture_settles_what_needed_a_person_and_so_does_a_cancellation() -> None:
    tea = product()
    captured, cancelled = place(Pick(tea, 1)), place(Pick(tea, 1))
    for order in (captured, cancelled):
        with holding(order) as held:
            services.ask_for_attention(held, "capture_failed: x")
    with holding(captured) as held:
        services.record_capture(held, clock.now())
    with holding(cancelled) as held:
        services.cancel_order(held, "lost", clock.now())
        services.ask_for_attention(held, "capture_failed: heard late")
    assert set(Order.objects.values_list("attention", flat=True)) == {""}


@pytest.mark.parametrize("reaction", reactions("orders"), ids=lambda reaction: reaction.name)
def test_nothing_is_recorded_of_an_order_nobody_placed(reaction: Reaction) -> None:
    data = reaction.reads.model_construct(reason="x", amount=0, parcel="parcel")
    event = Event[Any](id=uuid4(), type="a.b.v1", source="a", subject=str(uuid4()), time=clock.now(), data=data)
    assert reaction.rows is not None
    with transaction_of("orders"), pytest.raises(UnknownOrder), reaction.rows.locked([event.subject]) as [order]:
        reaction.function(order, event)
    assert nothing_was_stored()
