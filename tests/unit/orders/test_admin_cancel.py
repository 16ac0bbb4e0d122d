"""Asking for orders to be cancelled: from an order's page, and from the list."""

import pytest
from django.contrib.admin.models import LogEntry
from django.test import Client

from choreography.core import clock
from orders import services
from orders.models import Order
from tests.unit.orders.admin_pages import LIST, an_order, log_in, log_in_clerk, messages_in
from tests.unit.orders.holding import holding

pytestmark = pytest.mark.django_db(databases="__all__")


@pytest.fixture
def clerk(client: Client) -> Client:
    log_in_clerk(client)
    return client


def url(order: Order) -> str:
    return f"/admin/orders/order/{order.pk}/cancel/"


def completed(order: Order) -> Order:
    with holding(order) as held:
        services.record_capture(held, clock.now())
        services.record_delivery(held, clock.now())
    return order


def cancelled(order: Order) -> Order:
    with holding(order) as held:
        services.cancel_order(held, "lost", clock.now())
    return order


def asked_for(order: Order) -> bool:
    return Order.objects.get(pk=order.pk).cancel_requested_at is not None


def test_the_button_asks_first(clerk: Client) -> None:
    order = an_order()

    response = clerk.get(url(order))

    assert "Yes, cancel this order" in response.content.decode()
    assert not asked_for(order)


def test_the_confirmed_button_asks_for_the_cancellation(clerk: Client) -> None:
    order = an_order()

    response = clerk.post(url(order))

    assert response.headers["Location"] == f"/admin/orders/order/{order.pk}/change/"
    assert messages_in(response) == [
        f"The cancellation of order {order.number} is asked for. It can be granted until the parcel is sent."
    ]
    assert asked_for(order)
    assert LogEntry.objects.get().object_id == str(order.pk)


def test_an_order_that_is_being_cancelled_already_says_so(clerk: Client) -> None:
    order = an_order()
    clerk.post(url(order))

    assert messages_in(clerk.post(url(order)))[-1] == (
        f"The cancellation of order {order.number} is being decided already."
    )


def test_a_completed_order_is_not_cancelled(clerk: Client) -> None:
    order = completed(an_order())

    assert messages_in(clerk.post(url(order))) == [f"Order {order.number} is completed: it was delivered and paid for."]
    assert not asked_for(order)
    assert not LogEntry.objects.exists()


def test_a_cancelled_order_is_not_cancelled_again(clerk: Client) -> None:
    order = cancelled(an_order())

    assert messages_in(clerk.post(url(order))) == [f"Order {order.number} is cancelled already."]


def test_the_list_cancels_many_and_tells_each_outcome(clerk: Client) -> None:
    one, other, pending, ended = an_order(), an_order(), an_order(), completed(an_order())
    services.request_cancellation(pending.pk)
    selected = [str(order.pk) for order in (one, other, pending, ended)]

    response = clerk.post(LIST, {"action": "cancel_orders", "_selected_action": selected})

    assert messages_in(response) == [
        f"The cancellation of order {pending.number} is being decided already.",
        f"Order {ended.number} is completed: it was delivered and paid for.",
        f"The cancellation of orders {one.number} and {other.number} is asked for. "
        "It can be granted until the parcel is sent.",
    ]
    assert asked_for(one)
    assert asked_for(other)


def test_an_open_order_has_the_button_and_a_finished_one_has_not(clerk: Client) -> None:
    open_order, ended = an_order(), completed(an_order())

    assert url(open_order) in clerk.get(f"/admin/orders/order/{open_order.pk}/change/").content.decode()
    assert url(ended) not in clerk.get(f"/admin/orders/order/{ended.pk}/change/").content.decode()


def test_without_the_permission_there_is_no_button_no_action_and_no_way(client: Client) -> None:
    log_in(client, "orders.view_order")
    order = an_order()

    assert url(order) not in client.get(f"/admin/orders/order/{order.pk}/change/").content.decode()
    assert "cancel_orders" not in client.get(LIST).content.decode()
    client.post(LIST, {"action": "cancel_orders", "_selected_action": [str(order.pk)]})
    assert client.get(url(order)).status_code == 403
    assert client.post(url(order)).status_code == 403
    assert not asked_for(order)


def test_a_forged_request_cancels_nothing() -> None:
    strict = Client(enforce_csrf_checks=True)
    log_in_clerk(strict)
    order = an_order()

    assert strict.post(url(order)).status_code == 403
    assert not asked_for(order)
