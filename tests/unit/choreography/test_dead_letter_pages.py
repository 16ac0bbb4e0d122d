"""Dead letters in the admin, shown here for payments: why, what, and the way to send one again."""

import json
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from django.test import Client
from pytest_django.fixtures import Settings

from choreography.models import DeadLetter, table_of
from tests.unit.orders.admin_pages import log_in, messages_in, queries

pytestmark = pytest.mark.django_db(databases="__all__")

LIST = "/admin/payments/deadletter/"


@pytest.fixture
def operator(client: Client) -> Client:
    log_in(client, "payments.view_deadletter", "payments.retry_deadletter")
    return client


@pytest.fixture
def broker(settings: Settings, tmp_path: Path) -> None:
    """An embedded broker of this test's own."""
    settings.CHOREOGRAPHY = settings.CHOREOGRAPHY | {"BROKER_URL": f"embedded://{tmp_path}/broker.sqlite3"}


def park(body: bytes = b'{"data": {"amount": 1}}', **details: Any) -> DeadLetter:
    letter: DeadLetter = table_of("payments", "DeadLetter").objects.create(
        **{
            "key": str(uuid4()),
            "event_id": uuid4(),
            "event_type": "orders.order_placed.v1",
            "subject": uuid4(),
            "reaction": "payments.authorize_payment",
            "error": "KeyError",
            "message": "a bug",
            "traceback": "Traceback\n  File <nowhere>",
            "attempts": 3,
            "body": body,
            "content_type": "application/cloudevents+json",
            "headers": {"colour": "blue"},
        }
        | details
    )
    return letter


def url(letter: DeadLetter) -> str:
    return f"{LIST}{letter.pk}/change/"


def page(client: Client, letter: DeadLetter) -> str:
    response = client.get(url(letter))
    assert response.status_code == 200
    return response.content.decode()


def state(letter: DeadLetter) -> str:
    return str(table_of("payments", "DeadLetter").objects.get(pk=letter.pk).state)


def test_a_letter_shows_why_and_what(operator: Client) -> None:
    letter = park()

    shown = page(operator, letter)

    for text in ("KeyError", "a bug", "File &lt;nowhere&gt;", "&quot;colour&quot;: &quot;blue&quot;"):
        assert text in shown
    assert "{\n  &quot;data&quot;: {\n    &quot;amount&quot;: 1\n  }\n}" in shown
    assert f'href="/admin/payments/payment/{letter.subject}/change/"' in shown


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


def test_a_letter_of_which_nothing_is_known_can_be_looked_at(operator: Client) -> None:
    letter = park(event_id=None, event_type="", subject=None, reaction="", headers={}, traceback="")

    assert "unknown message: KeyError" in page(operator, letter)


@pytest.mark.usefixtures("broker")
def test_the_button_sends_it_again(operator: Client) -> None:
    letter = park()
    assert "Send again" in page(operator, letter)

    response = operator.post(f"{LIST}{letter.pk}/send-again/")

    assert messages_in(response) == ["1 letter was sent again."]
    assert state(letter) == "retrying"
    assert f"{LIST}{letter.pk}/send-again/" not in page(operator, letter)


@pytest.mark.usefixtures("broker")
def test_the_action_sends_many_again_and_says_which_it_did_not(operator: Client) -> None:
    one, other, resolved = park(), park(), park(state=DeadLetter.State.RESOLVED)
    selected = [letter.pk for letter in (one, other, resolved)]

    response = operator.post(LIST, {"action": "send_letters_again", "_selected_action": selected})

    assert messages_in(response) == [
        "payments.authorize_payment: KeyError is not parked but resolved.",
        "2 letters were sent again.",
    ]
    assert [state(one), state(other), state(resolved)] == ["retrying", "retrying", "resolved"]


def test_with_the_broker_down_the_page_says_so_and_the_letter_stays(operator: Client, settings: Settings) -> None:
    settings.CHOREOGRAPHY = settings.CHOREOGRAPHY | {"BROKER_URL": "amqp://guest:guest@127.0.0.1:1//"}
    letter = park()

    (told,) = messages_in(operator.post(f"{LIST}{letter.pk}/send-again/"))

    assert told.startswith("The broker did not take it, so the rest stays parked. Try again later.")
    assert state(letter) == "parked"


def test_looking_does_not_send(operator: Client) -> None:
    assert operator.get(f"{LIST}{park().pk}/send-again/").status_code == 405


def test_who_may_only_look_can_not_send(client: Client) -> None:
    log_in(client, "payments.view_deadletter")
    letter = park()

    assert "Send again" not in page(client, letter)
    assert "send_letters_again" not in client.get(LIST).content.decode()
    assert client.post(f"{LIST}{letter.pk}/send-again/").status_code == 403
    client.post(LIST, {"action": "send_letters_again", "_selected_action": [letter.pk]})
    assert state(letter) == "parked"


def test_who_may_see_those_of_orders_does_not_see_those_of_payments(client: Client) -> None:
    log_in(client, "orders.view_deadletter", "orders.retry_deadletter")
    letter = park()

    assert client.get(LIST).status_code == 403
    assert client.get(url(letter)).status_code == 403
    assert client.post(f"{LIST}{letter.pk}/send-again/").status_code == 403


def test_nothing_of_a_letter_can_be_changed_or_removed(client: Client) -> None:
    log_in(client, "payments.view_deadletter", "payments.change_deadletter")
    letter = park()

    assert client.post(url(letter), {"state": "resolved"}).status_code == 403
    assert client.post(f"{LIST}{letter.pk}/delete/", {"post": "yes"}).status_code == 403
    assert state(letter) == "parked"


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


def test_announced_and_heard_events_can_be_looked_at(client: Client) -> None:
    log_in(client, "payments.view_outbox", "payments.view_inbox")
    subject, body = uuid4(), json.dumps({"data": {"amount": 2500}})
    announced = table_of("payments", "Outbox").objects.create(
        event_id=uuid4(), event_type="payments.payment_captured.v1", subject=subject, sequence=1, body=body
    )
    heard = table_of("payments", "Inbox").objects.create(
        event_id=uuid4(), event_type="orders.order_placed.v1", subject=subject, reaction="payments.authorize_payment"
    )

    assert "still waiting" in client.get("/admin/payments/outbox/?published=waiting").content.decode()
    assert "&quot;amount&quot;: 2500" in client.get(f"/admin/payments/outbox/{announced.pk}/change/").content.decode()
    assert "payments.authorize_payment" in client.get(f"/admin/payments/inbox/{heard.pk}/change/").content.decode()
    for table in ("outbox", "inbox"):
        assert "payments." in client.get(f"/admin/payments/{table}/?q={subject}").content.decode()
        assert client.get(f"/admin/payments/{table}/?q=nonsense").status_code == 200
