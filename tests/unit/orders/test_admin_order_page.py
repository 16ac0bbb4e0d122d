"""An order's page: what orders knows of it, read-only, until nothing more is to come."""

from datetime import timedelta

import pytest
from django.test import Client

from choreography.core import clock
from choreography.storage.tables import ServiceTables
from orders import services
from orders.models import Order
from tests.unit.orders.admin_pages import an_order, log_in, log_in_clerk, queries
from tests.unit.orders.holding import holding

pytestmark = pytest.mark.django_db(databases="__all__")


@pytest.fixture
def clerk(client: Client) -> Client:
    log_in_clerk(client)
    return client


def url(order: Order) -> str:
    return f"/admin/orders/order/{order.pk}/change/"


def page(clerk: Client, order: Order) -> str:
    response = clerk.get(url(order))
    assert response.status_code == 200
    return response.content.decode()


def publish_all() -> None:
    """The relay has been here."""
    ServiceTables("orders").outbox.update(published_at=clock.now())


def complete(order: Order) -> None:
    """Everything goes well."""
    with holding(order) as held:
        services.record_authorization(held, clock.now())
        services.record_dispatch(held, clock.now(), "parcel-7")
        services.record_capture(held, clock.now())
        services.record_delivery(held, clock.now())


def test_it_shows_what_was_ordered_by_whom_and_what_it_costs(clerk: Client) -> None:
    shown = page(clerk, an_order())

    for text in ("Ada Example", "ada@example.org", "Main Street 1", "53111 Bonn", "Germany", "€12.50", "€25.00"):
        assert text in shown


def test_it_shows_the_status_in_words(clerk: Client) -> None:
    order = an_order()

    assert '<span class="status status-placed">placed</span>' in page(clerk, order)
    complete(order)
    assert '<span class="status status-completed">completed</span>' in page(clerk, order)


def test_it_shows_what_orders_has_heard_and_waits_to_hear(clerk: Client) -> None:
    order = an_order()
    with holding(order) as held:
        services.record_dispatch(held, clock.now(), "parcel-7")

    shown = page(clerk, order)

    assert "parcel-7" in shown
    assert shown.count("not yet") == 3


def test_money_given_back_is_shown_as_an_amount(clerk: Client) -> None:
    order = an_order()
    with holding(order) as held:
        services.cancel_order(held, "undeliverable", clock.now())
        services.record_release(held, clock.now(), 2500)

    shown = page(clerk, order)

    assert "Payment given back" in shown
    assert "undeliverable" in shown
    assert "not yet" not in shown


def test_an_order_that_needs_a_person_says_why(clerk: Client) -> None:
    order = an_order()
    with holding(order) as held:
        services.ask_for_attention(held, "capture_failed: authorization_expired")

    assert "This order needs a person: capture_failed: authorization_expired" in page(clerk, order)


def test_an_event_announced_is_waiting_until_it_is_published(clerk: Client) -> None:
    order = an_order()

    assert "still waiting" in page(clerk, order)
    publish_all()
    assert "still waiting" not in page(clerk, order)


def test_an_event_heard_is_shown_with_its_reaction_and_attempts(clerk: Client) -> None:
    order = an_order()
    ServiceTables("orders").inbox.create(
        event_id=clock.new_id(),
        event_type="payments.payment_authorized.v1",
        reaction="orders.record_authorization",
        subject=str(order.pk),
        attempts=3,
    )

    shown = page(clerk, order)

    assert "payments.payment_authorized.v1" in shown
    assert "orders.record_authorization" in shown
    assert '<td class="number">3</td>' in shown


def test_a_dead_letter_about_it_is_shown(client: Client) -> None:
    log_in(client, "orders.view_order", "orders.view_deadletter")
    order = an_order()
    dead_letter = ServiceTables("orders").dead_letters.create(
        key="k", subject=str(order.pk), reaction="orders.record_capture", error="Bug", message="?", body=b"{}"
    )

    shown = page(client, order)

    assert "orders.record_capture: Bug" in shown
    assert f"/admin/orders/deadletter/{dead_letter.pk}/change/" in shown


def moves(clerk: Client, order: Order) -> bool:
    """Whether the page keeps looking for news."""
    return "data-moving" in page(clerk, order)


def test_it_looks_for_news_until_the_end_is_published(clerk: Client) -> None:
    order = an_order()
    publish_all()
    assert moves(clerk, order)

    complete(order)
    assert moves(clerk, order)

    publish_all()
    assert not moves(clerk, order)


def test_it_looks_for_news_until_the_money_of_a_cancelled_order_is_given_back(clerk: Client) -> None:
    order = an_order()
    with holding(order) as held:
        services.record_authorization(held, clock.now())
        services.cancel_order(held, "lost", clock.now() - timedelta(hours=1))
    publish_all()
    assert moves(clerk, order)

    with holding(order) as held:
        services.record_release(held, clock.now(), 2500)
    assert not moves(clerk, order)


def test_it_stops_looking_a_while_after_an_order_was_cancelled_that_nobody_paid_for(clerk: Client) -> None:
    just_now, long_ago = an_order(), an_order()
    with holding(just_now) as held:
        services.cancel_order(held, "insufficient_funds", clock.now())
    with holding(long_ago) as held:
        services.cancel_order(held, "insufficient_funds", clock.now() - timedelta(hours=1))
    publish_all()

    assert moves(clerk, just_now)
    assert not moves(clerk, long_ago)


def test_nothing_on_it_can_be_changed(clerk: Client) -> None:
    order = an_order()

    response = clerk.post(url(order), {"customer_name": "Eve"})

    assert response.status_code == 403
    assert Order.objects.get().customer_name == "Ada Example"
    assert clerk.post(f"/admin/orders/order/{order.pk}/delete/", {"post": "yes"}).status_code == 403


def test_it_runs_no_script_of_its_own_making(clerk: Client) -> None:
    shown = page(clerk, an_order())

    assert "<script>" not in shown
    assert "onclick" not in shown
    assert "<noscript>" in shown


@pytest.mark.parametrize("order_id", ["00000000-0000-0000-0000-000000000000", "nonsense"])
def test_an_order_that_is_none_is_not_found(clerk: Client, order_id: str) -> None:
    assert clerk.get(f"/admin/orders/order/{order_id}/change/").status_code == 404


def test_without_the_permission_nobody_sees_it(client: Client) -> None:
    log_in(client, "orders.add_order")

    assert client.get(url(an_order())).status_code == 403


def test_it_takes_as_many_queries_for_many_lines_as_for_one(clerk: Client) -> None:
    small, large = an_order(lines=1), an_order(lines=5)

    assert queries(clerk, url(small)) == queries(clerk, url(large)) <= 11


def test_what_a_customer_wrote_is_shown_as_text(clerk: Client) -> None:
    order = an_order()
    Order.objects.update(customer_name="<script>alert(1)</script>")

    assert "<script>alert" not in page(clerk, order)
