"""Dead letters in the admin, shown here for payments: why, what, and the way to send one again."""

import json
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from django.test import Client
from pytest_django.fixtures import Settings

from choreography.core import clock
from choreography.dead_letters.actions import OUTCOME_WITHIN
from choreography.storage.models import DeadLetter
from choreography.storage.tables import ServiceTables
from tests.shop_in_a_box import Shop
from tests.unit.choreography import parked
from tests.unit.orders.admin_pages import log_in, messages_in, queries

pytestmark = pytest.mark.django_db(databases="__all__")

LIST = "/admin/payments/deadletter/"


@pytest.fixture
def operator(client: Client) -> Client:
    log_in(client, "payments.view_deadletter", "payments.retry_deadletter", "payments.view_personal_deadletter")
    return client


@pytest.fixture
def broker(settings: Settings, tmp_path: Path) -> None:
    """An embedded broker of this test's own."""
    settings.CHOREOGRAPHY = settings.CHOREOGRAPHY | {"BROKER_URL": f"embedded://{tmp_path}/broker.sqlite3"}


def park(body: bytes = b'{"data": {"amount": 1}}', **details: Any) -> DeadLetter:
    dead_letter: DeadLetter = ServiceTables("payments").dead_letters.create(
        **{
            "key": str(uuid4()),
            "event_id": uuid4(),
            "event_type": "orders.order_placed.v2",
            "subject": str(uuid4()),
            "reaction": "payments.authorize_payment",
            "error": "KeyError",
            "fingerprint": "0123456789ab",
            "message": "a bug",
            "traceback": "Traceback\n  File <nowhere>",
            "attempts": 3,
            "body": body,
            "content_type": "application/cloudevents+json",
            "headers": {"colour": "blue"},
        }
        | details
    )
    return dead_letter


def url(dead_letter: DeadLetter) -> str:
    return f"{LIST}{dead_letter.pk}/change/"


def page(client: Client, dead_letter: DeadLetter) -> str:
    response = client.get(url(dead_letter))
    assert response.status_code == 200
    return response.content.decode()


def state(dead_letter: DeadLetter) -> str:
    return str(ServiceTables("payments").dead_letters.get(pk=dead_letter.pk).state)


def test_a_dead_letter_shows_why_and_what(operator: Client) -> None:
    dead_letter = park()

    shown = page(operator, dead_letter)

    for text in ("KeyError", "a bug", "File &lt;nowhere&gt;", "&quot;colour&quot;: &quot;blue&quot;"):
        assert text in shown
    assert "{\n  &quot;data&quot;: {\n    &quot;amount&quot;: 1\n  }\n}" in shown
    assert f'href="/admin/payments/payment/{dead_letter.subject}/change/"' in shown


BODIES = {
    "no text": (b"\xff\x00\x01", "ff 00 01"),
    "text": (b"hello <b>", "hello &lt;b&gt;"),
    "nothing": (b"", "<pre>-</pre>"),
    "half a character": (rb'"\ud800"', r"&quot;\ud800&quot;"),
    "JSON without end": (b"[" * 60_000, "[[["),
    "a lot": ("ü".encode() * 40_000 + b"x", "and 14465 bytes more"),
    "a lot that is no text": (b"\xff" * 2000, "and 976 bytes more"),
}


@pytest.mark.parametrize(("body", "text"), BODIES.values(), ids=BODIES.keys())
def test_any_body_can_be_looked_at(operator: Client, body: bytes, text: str) -> None:
    assert text in page(operator, park(body))


@pytest.mark.parametrize("body", [body for body, _ in BODIES.values()], ids=BODIES.keys())
def test_any_body_can_be_edited(client: Client, body: bytes) -> None:
    log_in(client, *(f"payments.{permission}_deadletter" for permission in ("view", "view_personal", "edit")))
    assert client.get(f"{LIST}{park(body).pk}/edit/").status_code == 200


def test_a_dead_letter_of_which_nothing_is_known_can_be_looked_at(operator: Client) -> None:
    dead_letter = park(event_id=None, event_type="", subject="", reaction="", headers={}, traceback="")

    assert "unknown message: KeyError" in page(operator, dead_letter)


def test_a_subject_may_be_any_text(operator: Client) -> None:
    dead_letter = park(subject="two\r\nlines")

    link = "/admin/payments/payment/two%0D_0Alines/change/"
    assert link in page(operator, dead_letter)
    assert link in operator.get(LIST).content.decode()


@pytest.mark.usefixtures("broker")
def test_the_button_sends_it_again(operator: Client) -> None:
    dead_letter = park()
    assert "Send again" in page(operator, dead_letter)

    response = operator.post(f"{LIST}{dead_letter.pk}/send-again/")

    assert messages_in(response) == ["1 dead letter was sent again."]
    assert state(dead_letter) == "retrying"
    assert f"{LIST}{dead_letter.pk}/send-again/" not in page(operator, dead_letter)


@pytest.mark.usefixtures("broker")
def test_the_action_sends_many_again_and_says_which_it_did_not(operator: Client) -> None:
    one, other, resolved = park(), park(), park(state=DeadLetter.State.RESOLVED)
    selected = [dead_letter.pk for dead_letter in (one, other, resolved)]

    response = operator.post(LIST, {"action": "send_again", "_selected_action": selected})

    assert messages_in(response) == [
        "payments.authorize_payment: KeyError is not parked but resolved.",
        "2 dead letters were sent again.",
    ]
    assert [state(one), state(other), state(resolved)] == ["retrying", "retrying", "resolved"]


def test_with_the_broker_down_the_page_says_so_and_the_dead_letter_stays(operator: Client, settings: Settings) -> None:
    settings.CHOREOGRAPHY = settings.CHOREOGRAPHY | {"BROKER_URL": "amqp://guest:guest@127.0.0.1:1//"}
    dead_letter = park()

    (told,) = messages_in(operator.post(f"{LIST}{dead_letter.pk}/send-again/"))

    assert told.startswith("The broker did not take it, so the rest stays parked. Try again later.")
    assert state(dead_letter) == "parked"


def test_looking_does_not_send(operator: Client) -> None:
    assert operator.get(f"{LIST}{park().pk}/send-again/").status_code == 405


def test_who_may_only_look_can_not_send(client: Client) -> None:
    log_in(client, "payments.view_deadletter")
    dead_letter = park()

    assert "Send again" not in page(client, dead_letter)
    assert 'value="send_again"' not in client.get(LIST).content.decode()
    assert client.post(f"{LIST}{dead_letter.pk}/send-again/").status_code == 403
    client.post(LIST, {"action": "send_again", "_selected_action": [dead_letter.pk]})
    assert state(dead_letter) == "parked"


def test_who_may_see_those_of_orders_does_not_see_those_of_payments(client: Client) -> None:
    log_in(client, "orders.view_deadletter", "orders.retry_deadletter")
    dead_letter = park()

    assert client.get(LIST).status_code == 403
    assert client.get(url(dead_letter)).status_code == 403
    assert client.post(f"{LIST}{dead_letter.pk}/send-again/").status_code == 403


def test_nothing_of_a_dead_letter_can_be_changed_or_removed(client: Client) -> None:
    log_in(client, "payments.view_deadletter", "payments.change_deadletter")
    dead_letter = park()

    assert client.post(url(dead_letter), {"state": "resolved"}).status_code == 403
    assert client.post(f"{LIST}{dead_letter.pk}/delete/", {"post": "yes"}).status_code == 403
    assert state(dead_letter) == "parked"


def test_the_list_counts_by_state_reaction_and_error(operator: Client) -> None:
    park()
    park(error="Unusable", reaction="", state=DeadLetter.State.RESOLVED)

    shown = operator.get(LIST).content.decode()

    for count in ("parked (1)", "resolved (1)", "sent again (0)", "KeyError (1)", "Unusable (1)"):
        assert count in shown


def test_the_list_takes_as_many_queries_for_many_as_for_one(operator: Client) -> None:
    park()
    for_one = queries(operator, LIST)
    for _ in range(5):
        park()

    assert queries(operator, LIST) == for_one


ALL = ("view", "view_personal", "dry_run", "retry", "edit", "discard")
GROUP = f"{LIST}groups/0123456789ab/"
ORDERS = "/admin/orders/deadletter/"


def test_a_dead_letter_without_an_outcome_for_long_says_so_and_can_be_sent_again(operator: Client) -> None:
    dead_letter = park(state=DeadLetter.State.RETRYING, sent_at=clock.now() - OUTCOME_WITHIN)
    fresh = park(state=DeadLetter.State.RETRYING, sent_at=clock.now())

    assert "sent again, no outcome for long" in page(operator, dead_letter)
    assert "Send again" in page(operator, dead_letter)
    assert "Send again" not in page(operator, fresh)
    assert "sent again, no outcome for long" in operator.get(LIST).content.decode()


@pytest.mark.usefixtures("broker")
def test_who_sent_it_again_and_why_is_shown(operator: Client) -> None:
    dead_letter = park()

    operator.post(f"{LIST}{dead_letter.pk}/send-again/", {"why": "mended <b>"})

    shown = page(operator, dead_letter)
    assert "person-" in shown
    assert "mended &lt;b&gt;" in shown
    assert "no outcome yet" in shown


def test_each_button_needs_its_permission(client: Client) -> None:
    dead_letter = park()
    needed = {"dry-run": "dry_run", "send-again": "retry", "edit": "edit", "discard": "discard"}
    may_look = ("payments.view_deadletter", "payments.view_personal_deadletter")

    for allowed in (None, *needed.values()):
        log_in(client, *may_look, *([f"payments.{allowed}_deadletter"] if allowed else []))
        shown = page(client, dead_letter)
        for what, permission in needed.items():
            address = f"{LIST}{dead_letter.pk}/{what}/"
            assert (address in shown) == (permission == allowed), (what, allowed)
            if permission != allowed:
                assert client.post(address, {"why": "x", "body": "{}"}).status_code == 403
    assert state(dead_letter) == "parked"
    assert not ServiceTables("payments").actions.exists()


@pytest.mark.parametrize("what", ["dry-run", "send-again", "discard"])
def test_looking_does_nothing(client: Client, what: str) -> None:
    log_in(client, *(f"payments.{permission}_deadletter" for permission in ALL))

    assert client.get(f"{LIST}{park().pk}/{what}/").status_code == 405


@pytest.mark.parametrize("what", ["dry-run", "send-again", "edit", "discard"])
def test_a_dead_letter_that_is_not_there_is_not_found(client: Client, what: str) -> None:
    log_in(client, *(f"payments.{permission}_deadletter" for permission in ALL))

    for number in ("99", "nonsense"):
        assert client.post(f"{LIST}{number}/{what}/", {"why": "x"}).status_code == 404


def test_a_dry_run_shows_what_would_happen(shop: Shop, client: Client) -> None:
    log_in(client, "orders.view_deadletter", "orders.dry_run_deadletter")
    (dead_letter,) = parked.park(shop)

    fails = client.post(f"{ORDERS}{dead_letter.pk}/dry-run/").content.decode()
    parked.mend(dead_letter)
    works = client.post(f"{ORDERS}{dead_letter.pk}/dry-run/").content.decode()

    assert "Would fail." in fails
    assert "Traceback" in fails
    assert "Would take effect." in works
    assert f"orders.order {dead_letter.subject}: changed" in works
    assert "captured_at" in works
    assert "Send again" not in works
    assert parked.states() == ["parked"]


def test_a_dry_run_shows_the_external_call(shop: Shop, client: Client) -> None:
    log_in(client, *(f"payments.{permission}_deadletter" for permission in ("view", "view_personal", "dry_run")))
    shop.place()
    shop.relay("orders")
    message = shop.take("payments")
    assert message is not None

    shown = client.post(f"{LIST}{park(message.body).pk}/dry-run/").content.decode()

    assert "It would call <em>authorize</em> of the payment gateway." in shown
    assert "tok_approved" in shown


def an_order_parked_by_payments(shop: Shop) -> DeadLetter:
    """The message of an order with a customer, whom tests look for."""
    shop.place()
    shop.relay("orders")
    message = shop.take("payments")
    assert message is not None
    assert b"ada@example.org" in message.body
    return park(message.body)


def test_personal_data_is_masked_for_those_who_may_not_see_it(shop: Shop, client: Client) -> None:
    dead_letter = an_order_parked_by_payments(shop)
    announced = ServiceTables("orders").outbox.get(event_type="orders.order_placed.v2")
    outbox = f"/admin/orders/outbox/{announced.pk}/change/"

    log_in(client, "payments.view_deadletter", "orders.view_outbox")
    pages = [page(client, dead_letter), client.get(outbox).content.decode()]
    log_in(client, "payments.view_deadletter", "payments.view_personal_deadletter")
    dead_letter_whole = page(client, dead_letter)
    log_in(client, "orders.view_outbox", "orders.view_personal_outbox")
    outbox_whole = client.get(outbox).content.decode()

    for shown in pages:
        assert "ada@example.org" not in shown
        assert "&quot;email&quot;: &quot;***&quot;" in shown
        assert "&quot;type&quot;: &quot;orders.order_placed.v2&quot;" in shown
        assert "seeing it needs the permission" in shown
    for shown in (dead_letter_whole, outbox_whole):
        assert "ada@example.org" in shown
        assert "***" not in shown


def test_what_cannot_be_read_is_masked_whole(client: Client) -> None:
    log_in(client, "payments.view_deadletter")

    shown = page(client, park(b"Ada Example, Main Street 1"))

    assert "Ada" not in shown
    assert "<pre>***</pre>" in shown


def test_who_may_not_see_personal_data_edits_nothing_and_sees_no_old_message(shop: Shop, client: Client) -> None:
    dead_letter = an_order_parked_by_payments(shop)
    ServiceTables("payments").actions.create(
        dead_letter=dead_letter, who="ada", what="edit", old_body=b"ada@example.org", new_body=dead_letter.body
    )
    log_in(client, "payments.view_deadletter", "payments.edit_deadletter")

    assert client.get(f"{LIST}{dead_letter.pk}/edit/").status_code == 403
    shown = page(client, dead_letter)
    assert "<summary>changes</summary>" in shown
    assert "ada@example.org" not in shown
    assert f"{LIST}{dead_letter.pk}/edit/" not in shown


def test_a_dry_run_masks_what_people_have_written(shop: Shop, client: Client) -> None:
    shop.place()
    shop.relay("orders")
    message = shop.take("shipping")
    assert message is not None
    dead_letter = ServiceTables("shipping").dead_letters.create(
        key="1", event_type="orders.order_placed.v2", body=message.body, content_type="application/cloudevents+json"
    )
    address = f"/admin/shipping/deadletter/{dead_letter.pk}/dry-run/"

    log_in(client, "shipping.view_deadletter", "shipping.dry_run_deadletter")
    masked = client.post(address).content.decode()
    log_in(client, *(f"shipping.{permission}_deadletter" for permission in ("view", "view_personal", "dry_run")))
    whole = client.post(address).content.decode()

    for shown in (masked, whole):
        assert "Would take effect." in shown
        assert "shipping.shipment" in shown
    assert "Main Street 1" in whole
    assert "Main Street 1" not in masked
    assert "***" in masked


@pytest.mark.usefixtures("broker")
def test_a_dead_letter_is_edited_and_both_messages_are_shown(shop: Shop, client: Client) -> None:
    log_in(client, *(f"orders.{permission}_deadletter" for permission in ("view", "view_personal", "edit")))
    good = parked.captured(uuid4())
    shop.send("orders", good.replace(b"2500", b'"much"'))
    shop.drain()
    (dead_letter,) = parked.dead_letters()
    address = f"{ORDERS}{dead_letter.pk}/edit/"
    assert "&quot;much&quot;" in client.get(address).content.decode()

    refused = client.post(address, {"body": good.replace(b"2500", b"-1").decode()})
    assert "amount: minimum 0" in refused.content.decode()
    assert (parked.states(), parked.history()) == (["parked"], [])
    client.post(address, {"body": good.decode(), "why": "a typing mistake"})

    assert parked.states() == ["retrying"]
    shown = client.get(f"{ORDERS}{dead_letter.pk}/change/").content.decode()
    assert "-    &quot;amount&quot;: &quot;much&quot;" in shown
    assert "+    &quot;amount&quot;: 2500" in shown
    assert client.get(address).status_code == 302  # too late


def test_with_the_broker_down_an_edit_changes_nothing(shop: Shop, client: Client, settings: Settings) -> None:
    settings.CHOREOGRAPHY = settings.CHOREOGRAPHY | {"BROKER_URL": "amqp://guest:guest@127.0.0.1:1//"}
    log_in(client, *(f"orders.{permission}_deadletter" for permission in ("view", "view_personal", "edit")))
    (dead_letter,) = parked.park(shop)

    told = client.post(f"{ORDERS}{dead_letter.pk}/edit/", {"body": bytes(dead_letter.body).decode()})

    assert "The broker did not take it" in told.content.decode()
    assert (parked.states(), parked.history()) == (["parked"], [])


def test_a_dead_letter_is_discarded_for_a_reason(client: Client) -> None:
    log_in(client, "payments.view_deadletter", "payments.discard_deadletter")
    dead_letter = park()

    assert messages_in(client.post(f"{LIST}{dead_letter.pk}/discard/", {"why": " "})) == [
        "Say why it is to be discarded."
    ]
    assert state(dead_letter) == "parked"
    client.post(f"{LIST}{dead_letter.pk}/discard/", {"why": "a test order"})

    assert state(dead_letter) == "discarded"
    assert "a test order" in page(client, dead_letter)
    assert f"{LIST}{dead_letter.pk}/discard/" not in page(client, dead_letter)


def test_dead_letters_are_counted_by_fingerprint(operator: Client) -> None:
    for _ in range(3):
        park()
    park(reaction="", error="Unusable", fingerprint="ba9876543210")
    assert f"{LIST}groups/" in operator.get(LIST).content.decode()

    shown = operator.get(f"{LIST}groups/").content.decode()

    assert GROUP in shown
    assert "unusable message" in shown
    assert f'{LIST}?fingerprint=0123456789ab&amp;state__exact=parked">3</a>' in shown
    assert (
        operator.get(f"{LIST}?fingerprint=0123456789ab&state__exact=parked").content.decode().count("KeyError</a>") == 3
    )


def test_with_nothing_parked_the_page_says_so(operator: Client) -> None:
    assert "Nothing is parked." in operator.get(f"{LIST}groups/").content.decode()
    assert "Nothing of it is parked." in operator.get(GROUP).content.decode()


def test_a_group_is_sent_again_and_stopped(operator: Client) -> None:
    park()

    messages = messages_in(operator.post(GROUP, {"action": "retry", "rate": "1", "why": "mended"}))
    assert messages == []
    (begun,) = ServiceTables("payments").redrives.all()
    shown = operator.get(GROUP).content.decode()
    again = messages_in(operator.post(GROUP, {"action": "retry", "rate": "1"}))

    assert (begun.rate, begun.why, begun.who[:7]) == (1.0, "mended", "person-")
    assert "http-equiv" in shown
    assert 'value="Stop"' in shown
    assert "(under way)" in operator.get(f"{LIST}groups/").content.decode()
    assert again == ["0123456789ab is being sent again already."]
    operator.post(GROUP, {"action": "stop"})
    begun.refresh_from_db()
    assert begun.state == "stopped"
    assert "Stopped by person-" in operator.get(GROUP).content.decode()


@pytest.mark.parametrize("rate", ["", "fast", "0", "1000", "nan"])
def test_a_rate_that_makes_no_sense_starts_nothing(operator: Client, rate: str) -> None:
    park()

    (told,) = messages_in(operator.post(GROUP, {"action": "retry", "rate": rate}))

    assert told.startswith("The rate must be")
    assert not ServiceTables("payments").redrives.exists()


def test_a_group_is_discarded_for_a_reason(client: Client) -> None:
    log_in(client, "payments.view_deadletter", "payments.discard_deadletter")
    one, other, elsewhere = park(), park(), park(fingerprint="ba9876543210")

    client.post(GROUP, {"action": "discard", "why": "test orders"})

    assert [state(each) for each in (one, other, elsewhere)] == ["discarded", "discarded", "parked"]


def test_who_may_only_look_can_do_nothing_to_a_group(client: Client) -> None:
    log_in(client, "payments.view_deadletter")
    dead_letter = park()

    assert '<form method="post">' not in client.get(GROUP).content.decode()
    for action in ("retry", "stop", "discard", "nonsense", ""):
        assert client.post(GROUP, {"action": action, "rate": "1", "why": "x"}).status_code == 403
    assert state(dead_letter) == "parked"


def test_who_may_not_look_sees_no_groups(client: Client) -> None:
    log_in(client, "orders.view_deadletter")

    assert client.get(f"{LIST}groups/").status_code == 403
    assert client.get(GROUP).status_code == 403


def test_pages_take_as_many_queries_for_many_as_for_one(operator: Client) -> None:
    dead_letter = park()
    addresses = [f"{LIST}groups/", GROUP, url(dead_letter)]

    def add() -> None:
        ServiceTables("payments").redrives.create(fingerprint="0123456789ab", rate=1.0, who="x", state="done")
        redrive = ServiceTables("payments").redrives.first()
        dead_letter.actions.create(who="x", what="retry", redrive=redrive)  # type: ignore[attr-defined]
        park(fingerprint=str(uuid4())[:12])
        park()

    add()
    for_one = [queries(operator, address) for address in addresses]
    for _ in range(5):
        add()

    assert [queries(operator, address) for address in addresses] == for_one


def test_announced_and_heard_events_can_be_looked_at(client: Client) -> None:
    log_in(client, "payments.view_outbox", "payments.view_inbox")
    subject, body = str(uuid4()), json.dumps({"data": {"amount": 2500}})
    announced = ServiceTables("payments").outbox.create(
        event_id=uuid4(), event_type="payments.payment_captured.v1", subject=subject, sequence=1, body=body
    )
    heard = ServiceTables("payments").inbox.create(
        event_id=uuid4(), event_type="orders.order_placed.v2", subject=subject, reaction="payments.authorize_payment"
    )

    assert "still waiting" in client.get("/admin/payments/outbox/?published=waiting").content.decode()
    assert "&quot;amount&quot;: 2500" in client.get(f"/admin/payments/outbox/{announced.pk}/change/").content.decode()
    assert "payments.authorize_payment" in client.get(f"/admin/payments/inbox/{heard.pk}/change/").content.decode()
    for table in ("outbox", "inbox"):
        assert "payments." in client.get(f"/admin/payments/{table}/?q={subject}").content.decode()
        assert client.get(f"/admin/payments/{table}/?q=nonsense").status_code == 200
