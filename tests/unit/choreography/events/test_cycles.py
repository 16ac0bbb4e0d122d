"""Reactions that go round in a circle are found in the code, and end where they run."""

import json

import pytest
from django.core.management import call_command
from pytest_django.fixtures import Settings

from choreography.core import clock
from choreography.core.errors import Unusable
from choreography.events.flow_checks import cycles, graph
from choreography.events.registry import reaction_to
from choreography.inbox.deliveries import Delivery, Done, Parked
from choreography.inbox.handler import handle_one
from choreography.outbox.announcing import announce, caused_by, transaction_of
from choreography.testing import override
from payments.events import PaymentDeclined
from payments.models import DeadLetter, Outbox
from tests.unit.choreography.authorizing import placed

pytestmark = [pytest.mark.django_db(databases="__all__"), pytest.mark.usefixtures("frozen")]


def test_the_shop_has_no_circle() -> None:
    assert cycles(graph()) == []
    call_command("choreography", "check")


def test_each_circle_is_found_once() -> None:
    follow = {"a": {"b"}, "b": {"c", "a"}, "c": {"a", "d"}, "d": {"d"}, "e": {"a"}}

    assert cycles({name: frozenset(following) for name, following in follow.items()}) == [
        ("a", "b"),
        ("a", "b", "c"),
        ("d",),
    ]


def test_the_command_names_a_circle_in_the_code(capsys: pytest.CaptureFixture[str]) -> None:
    with (
        override("orders.cancel_order", announces=frozenset({"payments.payment_declined.v1"})),
        pytest.raises(SystemExit),
    ):
        call_command("choreography", "check")

    assert "payments.payment_declined.v1 -> payments.payment_declined.v1" in capsys.readouterr().out


def test_an_event_counts_the_reactions_that_led_to_it() -> None:
    handle_one(placed())
    [row] = Outbox.objects.all()
    assert json.loads(row.body)["hops"] == 1

    Outbox.objects.all().delete()
    handle_one(with_hops(7))
    assert json.loads(Outbox.objects.get().body)["hops"] == 8


def test_a_chain_that_is_too_long_is_parked_with_the_reason(settings: Settings) -> None:
    settings.CHOREOGRAPHY = settings.CHOREOGRAPHY | {"MAX_HOPS": 5}

    assert isinstance(handle_one(with_hops(5)), Done)
    assert isinstance(handle_one(with_hops(6)), Parked)

    message = DeadLetter.objects.get().message
    assert message.startswith("6 reactions led to it, one after the other")


def test_the_same_event_too_often_about_one_subject_is_refused_with_the_reason(settings: Settings) -> None:
    settings.CHOREOGRAPHY = settings.CHOREOGRAPHY | {"MAX_REPETITIONS": 3}
    reaction, event = reaction_to("payments", "orders.order_placed.v2"), placed().event
    assert reaction is not None

    def decline() -> None:
        with transaction_of("payments"), caused_by(reaction, event):
            announce(PaymentDeclined(reason="again"), subject="a subject")

    for _ in range(3):
        decline()
    with pytest.raises(Unusable, match="was announced 3 times about a subject"):
        decline()

    assert Outbox.objects.count() == 3


def test_what_no_reaction_announces_is_not_counted(settings: Settings) -> None:
    settings.CHOREOGRAPHY = settings.CHOREOGRAPHY | {"MAX_REPETITIONS": 1}

    for _ in range(3):
        with transaction_of("payments"):
            announce(PaymentDeclined(reason="by a person"), subject="a subject")

    assert Outbox.objects.count() == 3


def with_hops(hops: int) -> Delivery:
    envelope = json.loads(placed().body) | {"hops": hops, "id": str(clock.new_id()), "subject": str(clock.new_id())}
    return placed(body=json.dumps(envelope).encode())
