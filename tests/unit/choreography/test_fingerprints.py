"""A fingerprint is the same for all that fail alike, and stays the same while the code around it moves."""

import re
import traceback
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from uuid import uuid4

import pytest
from django.apps import apps
from django.core.management import call_command
from django.db import connections

from choreography.core.errors import Unusable
from choreography.inbox.fingerprints import fill_in, fingerprint, location_in, location_of
from choreography.storage.tables import ServiceTables
from orders.services import request_cancellation
from tests.shop_in_a_box import Shop
from tests.unit.choreography.parked import captured, park

pytestmark = pytest.mark.django_db(databases="__all__")


def raised_by(work: Callable[[], object]) -> Exception:
    with pytest.raises(Exception) as caught:  # noqa: PT011 (whichever it is)
        work()
    return caught.value


def in_a_service() -> Exception:
    return raised_by(lambda: request_cancellation(uuid4()))


def test_the_place_is_the_innermost_of_our_own_functions() -> None:
    module, _, function = location_of(in_a_service()).partition(":")

    assert module == "orders.models"
    assert function == "_refuse_unknown"


def test_an_error_without_any_of_our_code_has_no_place() -> None:
    assert location_of(raised_by(lambda: int("x"))) == ""


def test_a_traceback_tells_the_same_place_as_the_error() -> None:
    error = in_a_service()
    printed = "".join(traceback.format_exception(error))

    assert location_in(printed) == location_of(error)
    assert location_in(re.sub(r"line \d+", "line 7", printed)) == location_of(error)
    assert location_in("") == location_in("what people type") == ""


def test_reaction_error_and_place_each_make_a_difference() -> None:
    prints = {
        fingerprint("orders.record_capture", "KeyError", "orders.services:a"),
        fingerprint("orders.record_dispatch", "KeyError", "orders.services:a"),
        fingerprint("orders.record_capture", "ValueError", "orders.services:a"),
        fingerprint("orders.record_capture", "KeyError", "orders.services:b"),
        fingerprint("", "KeyError", "orders.services:b"),
    }

    assert len(prints) == 5
    assert all(re.fullmatch("[0-9a-f]{12}", each) for each in prints)


def test_dead_letters_about_different_orders_that_fail_alike_have_one_fingerprint(shop: Shop) -> None:
    one, other = park(shop, 2)

    assert one.subject != other.subject
    assert one.fingerprint == other.fingerprint == fingerprint(one.reaction, one.error, one.place)


def test_unreadable_messages_have_a_fingerprint_of_their_own(shop: Shop) -> None:
    shop.send("orders", b"rubbish")
    shop.send("orders", b"other rubbish")
    shop.send("orders", captured(uuid4()), "text/plain")
    shop.drain()
    rubbish, other, plain = sorted(shop.dead_letters("orders"), key=lambda dead_letter: dead_letter.pk)

    assert (rubbish.reaction, rubbish.error) == ("", Unusable.__name__)
    assert rubbish.fingerprint == other.fingerprint != plain.fingerprint


def test_dead_letters_from_before_are_given_what_later_ones_have(shop: Shop) -> None:
    (dead_letter,) = park(shop)
    table = ServiceTables("orders").dead_letters
    table.update(fingerprint="", place="", first_parked_at="2000-01-01T00:00:00Z", state="retrying")

    fill_in("orders")(apps, SimpleNamespace(connection=connections["orders"]))

    filled = table.get()
    assert (filled.fingerprint, filled.place) == (dead_letter.fingerprint, dead_letter.place)
    assert filled.first_parked_at == filled.sent_at == dead_letter.parked_at


@pytest.fixture
def before_fingerprints() -> Iterator[None]:
    """Payments' tables as they were."""
    call_command("migrate", "payments", "0001", database="payments", verbosity=0)
    yield
    call_command("migrate", "payments", database="payments", verbosity=0)


@pytest.mark.django_db(transaction=True, databases="__all__")
def test_the_migration_fills_them_in(before_fingerprints: None) -> None:
    with connections["payments"].cursor() as cursor:
        cursor.execute(
            "INSERT INTO payments_deadletter (state, key, event_type, reaction, error, message, traceback, attempts, "
            "body, content_type, headers, parked_at) VALUES ('parked', 'k', '', 'payments.x', 'KeyError', 'm', '', 1, "
            "'', '', '{}', '2026-01-01 00:00:00+00:00')"
        )

    call_command("migrate", "payments", database="payments", verbosity=0)

    (dead_letter,) = ServiceTables("payments").dead_letters.all()
    assert dead_letter.fingerprint == fingerprint("payments.x", "KeyError", "")
    assert dead_letter.first_parked_at == dead_letter.parked_at
