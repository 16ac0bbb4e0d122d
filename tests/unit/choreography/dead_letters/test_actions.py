"""What a person does with a dead letter: send it again, mend it, discard it; and what is kept of that."""

import json
from typing import Any

import pytest
from pytest_django.fixtures import Settings

from choreography.broker.publisher import BrokerPublisher, Outgoing, connect
from choreography.core import clock
from choreography.core.errors import Outage, Transient
from choreography.dead_letters.actions import OUTCOME_WITHIN, By, NoReason, NotParked, discard, edit, groups, send_again
from choreography.dead_letters.editing import Refused
from choreography.inbox.deliveries import DEAD_LETTER
from choreography.storage.models import DeadLetter
from choreography.storage.tables import ServiceTables
from orders.models import Order
from tests.shop_in_a_box import Shop
from tests.unit.choreography.parked import captured, dead_letters, history, mend, park, states

pytestmark = pytest.mark.django_db(databases="__all__")


def hear(shop: Shop, body: bytes, **headers: Any) -> DeadLetter:
    """A message arrives in orders' queue and is given up."""
    shop.publish([Outgoing(body=body, exchange="", routing_key="orders", headers=headers)])
    shop.drain()
    return dead_letter()


def dead_letter() -> DeadLetter:
    found: DeadLetter = ServiceTables("orders").dead_letters.get()
    return found


def unknown_order(shop: Shop) -> DeadLetter:
    """Orders hears of an order it does not know."""
    return hear(shop, captured(clock.new_id()))


def test_a_dead_letter_sent_again_is_resolved_when_the_reaction_takes_effect(shop: Shop) -> None:
    parked = unknown_order(shop)
    assert (parked.state, parked.error) == ("parked", "UnknownOrder")
    order = Order.objects.create(total=2500, currency="EUR", pk=parked.subject)  # a person mends what was missing

    send_again(parked, shop)
    assert dead_letter().state == "retrying"
    shop.handle_next("orders")

    assert dead_letter().state == "resolved"
    assert shop.order(order).captured_at is not None


def test_a_dead_letter_that_fails_again_is_parked_again_and_stays_one_dead_letter(shop: Shop) -> None:
    parked = unknown_order(shop)
    parked.message = "what it said before"
    parked.save()

    send_again(parked, shop)
    shop.drain()

    assert dead_letter().pk == parked.pk
    assert dead_letter().state == "parked"
    assert "has no order" in dead_letter().message


def test_the_message_goes_out_as_it_came_without_its_history(shop: Shop) -> None:
    body = captured(clock.new_id())
    history = {
        "x-choreography-attempts": 2,
        "x-choreography-waits": 1,
        "x-choreography-first-seen": "2026-01-01T00:00:00+00:00",
        "x-choreography-whatever": "comes later",
        "x-death": [{"reason": "rejected"}],
        "x-first-death-queue": "orders",
    }
    parked = hear(shop, body, colour="blue", **history)

    send_again(parked, shop)

    message = shop.broker.get(["orders"], "reader")
    assert message is not None
    assert message.body == body
    assert message.content_type == "application/cloudevents+json"
    assert message.headers == {"colour": "blue", DEAD_LETTER: parked.key}


def test_a_message_that_is_no_event_can_be_sent_again_too(shop: Shop) -> None:
    parked = hear(shop, b"\xff\x00 not JSON")

    send_again(parked, shop)
    shop.drain()

    assert dead_letter().state == "parked"
    assert dead_letter().attempts == 1


@pytest.mark.parametrize("state", ["retrying", "resolved", "discarded"])
def test_a_dead_letter_that_is_not_parked_is_refused(shop: Shop, state: str) -> None:
    parked = unknown_order(shop)
    ServiceTables("orders").dead_letters.update(state=state, sent_at=clock.now())

    with pytest.raises(NotParked, match="is not parked but"):
        send_again(parked, shop)

    assert shop.broker.size("orders") == 0


def test_with_the_broker_down_the_dead_letter_stays_parked(shop: Shop, settings: Settings) -> None:
    parked = unknown_order(shop)
    settings.CHOREOGRAPHY = settings.CHOREOGRAPHY | {"BROKER_URL": "amqp://guest:guest@127.0.0.1:1//"}

    with pytest.raises(Transient):
        send_again(parked)

    assert dead_letter().state == "parked"


def test_without_a_word_it_goes_to_the_configured_broker(shop: Shop, settings: Settings) -> None:
    parked = unknown_order(shop)
    settings.DATA_DIR.mkdir(parents=True)
    settings.CHOREOGRAPHY = settings.CHOREOGRAPHY | {"BROKER_URL": f"embedded://{settings.DATA_DIR}/broker.sqlite3"}

    send_again(parked)

    assert waiting_for("orders") == [json.loads(bytes(parked.body))]


def test_a_broker_that_goes_down_while_it_is_sent_leaves_it_parked(shop: Shop) -> None:
    parked = unknown_order(shop)

    with pytest.raises(Outage):
        send_again(parked, BrokerPublisher("amqp://guest:guest@127.0.0.1:1//"))

    assert dead_letter().state == "parked"


BY = By("ada", "because")


def test_what_came_of_sending_it_again_is_told_in_its_history(shop: Shop) -> None:
    (parked,) = park(shop)
    send_again(parked, shop, BY)
    assert history() == [("retry", "pending")]
    shop.drain()
    mend(parked)
    send_again(parked, shop, By("bob"))
    shop.drain()

    first, second = parked.actions.order_by("pk")
    assert (first.who, first.why, first.outcome) == ("ada", "because", "parked")
    assert first.detail == f"UnknownOrder {parked.location}"
    assert (second.who, second.why, second.outcome, second.detail) == ("bob", "", "resolved", "")


def test_who_says_nothing_is_known_by_the_name_of_the_system(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOGNAME", "ada")
    (parked,) = park(shop)

    send_again(parked, shop)

    assert parked.actions.get().who == "ada"


def test_what_came_of_it_is_told_in_the_transaction_in_which_it_came(shop: Shop) -> None:
    """A worker that dies before it commits leaves both unsaid."""
    (parked,) = park(shop)
    mend(parked)
    send_again(parked, shop, BY)

    shop.crash_before_commit("orders")

    assert (states(), history()) == (["retrying"], [("retry", "pending")])


def test_a_dead_letter_remembers_when_it_was_parked_first_and_last(shop: Shop) -> None:
    (parked,) = park(shop)
    shop.time.advance(60)
    send_again(parked, shop, BY)
    shop.drain()

    assert dead_letter().first_parked_at == parked.parked_at
    assert (dead_letter().parked_at - parked.parked_at).total_seconds() == 60


def test_pressed_many_times_it_is_sent_once(shop: Shop) -> None:
    (parked,) = park(shop)
    send_again(parked, shop, BY)
    for _ in range(5):
        with pytest.raises(NotParked):
            send_again(parked, shop, BY)

    assert shop.broker.size("orders") == 1


def test_without_an_answer_for_long_it_can_be_sent_once_more(shop: Shop) -> None:
    """The first message may still come: the inbox keeps it from taking effect twice."""
    (parked,) = park(shop)
    mend(parked)
    send_again(parked, shop, BY)

    shop.time.advance(OUTCOME_WITHIN.total_seconds())
    assert groups("orders")[0].overdue == 1
    send_again(parked, shop, BY)
    shop.drain()

    assert states() == ["resolved"]
    assert history() == [("retry", "superseded"), ("retry", "resolved")]
    assert [type(outcome).__name__ for outcome in shop.outcomes()[-2:]] == ["Done", "Duplicate"]


def test_groups_count_what_is_open(shop: Shop) -> None:
    first, *_ = park(shop, 3)
    shop.time.advance(60)
    park(shop, 1)
    shop.send("orders", b"rubbish")
    shop.drain()
    resolved, sent = dead_letters()[1:3]
    mend(resolved)
    for each in (resolved, sent):
        send_again(each, shop, BY)
        if each is resolved:
            shop.drain()

    largest, other = groups("orders")

    assert (largest.fingerprint, largest.reaction, largest.error) == (first.fingerprint, first.reaction, "UnknownOrder")
    assert (largest.parked, largest.sent_again, largest.overdue) == (2, 1, 0)
    assert (largest.last_seen - largest.first_seen).total_seconds() == 60
    assert (other.reaction, other.error, other.parked) == ("", "Unusable", 1)
    assert groups("payments") == []


def test_a_discarded_dead_letter_is_kept_with_the_reason(shop: Shop) -> None:
    (parked,) = park(shop)

    discard(parked, BY)

    assert states() == ["discarded"]
    line = parked.actions.get()
    assert (line.who, line.why, line.what, line.outcome) == ("ada", "because", "discard", "discarded")
    assert groups("orders") == []
    with pytest.raises(NotParked):
        discard(parked, BY)


@pytest.mark.parametrize("why", ["", " \n"])
def test_nothing_is_discarded_without_a_reason(shop: Shop, why: str) -> None:
    (parked,) = park(shop)

    with pytest.raises(NoReason):
        discard(parked, By("ada", why))

    assert (states(), history()) == (["parked"], [])


def test_a_discarded_message_that_arrives_anew_is_parked_anew(shop: Shop) -> None:
    (parked,) = park(shop)
    discard(parked, BY)

    shop.send("orders", bytes(parked.body))
    shop.drain()

    assert states() == ["parked"]


def test_an_edited_dead_letter_is_sent_again_with_both_bodies_kept(shop: Shop) -> None:
    """The service reads the new message; its history tells both."""
    order = Order.objects.create(total=2500, currency="EUR", pk=clock.new_id())
    good = captured(order.pk)
    bad = good.replace(b'"amount"', b'"amuont"').replace(b'"subject"', b'"subjcet"')
    hear(shop, bad)
    (parked,) = dead_letters()

    edit(parked, good, BY, shop)
    shop.drain()

    assert dead_letter().state == "resolved"
    assert shop.order(order).captured_at is not None
    assert (dead_letter().event_type, dead_letter().subject) == ("payments.payment_captured.v1", str(order.pk))
    line = parked.actions.get()
    assert (bytes(line.old_body), bytes(line.new_body)) == (bad, good)
    assert (line.what, line.outcome, line.who) == ("edit", "resolved", "ada")


def test_a_dead_letter_that_is_not_parked_is_not_edited(shop: Shop) -> None:
    (parked,) = park(shop)
    body = bytes(parked.body)
    discard(parked, BY)

    with pytest.raises(NotParked):
        edit(parked, body, BY, shop)

    assert shop.broker.size("orders") == 0


def test_a_refused_edit_changes_nothing(shop: Shop) -> None:
    (parked,) = park(shop)
    before = ServiceTables("orders").dead_letters.values().get()

    with pytest.raises(Refused):
        edit(parked, b"rubbish", BY, shop)

    assert ServiceTables("orders").dead_letters.values().get() == before
    assert history() == []
    assert shop.broker.size("orders") == 0


def waiting_for(service: str) -> list[Any]:
    """What lies in a service's queue on the configured broker."""
    found = []
    channel: Any
    with connect() as connection, connection.channel() as channel:
        while message := channel.basic_get(service, no_ack=True):
            found.append(json.loads(message.body))
    return found
