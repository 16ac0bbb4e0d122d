"""A fingerprint is the same for all that fail alike, and stays the same while the code around it moves."""

import re
from collections.abc import Callable
from uuid import uuid4

import pytest

from choreography.core.errors import Unusable
from choreography.inbox.fingerprints import fingerprint, location_of
from choreography.outbox.announcing import transaction_of
from orders.services import request_cancellation
from payments.models import Payment
from tests.shop_in_a_box import Shop
from tests.unit.choreography.parked import captured, park

pytestmark = pytest.mark.django_db(databases="__all__")


def raised_by(work: Callable[[], object]) -> Exception:
    with pytest.raises(Exception) as caught:  # noqa: PT011 (whichever it is)
        work()
    return caught.value


def in_a_service() -> Exception:
    return raised_by(lambda: request_cancellation(uuid4()))


def test_the_location_is_the_innermost_of_our_own_functions() -> None:
    module, _, function = location_of(in_a_service()).partition(":")

    assert module == "orders.models"
    assert function == "missing"


def test_an_error_without_any_of_our_code_has_no_location() -> None:
    assert location_of(raised_by(lambda: int("x"))) == ""


def test_functions_of_the_machinery_count_only_where_there_is_none_of_a_service() -> None:
    """Here the machinery stands beside the services; elsewhere it is among the installed packages."""

    def in_both() -> object:
        with transaction_of("payments"), Payment.objects.locked(["no key"]):
            pytest.fail("not reached")

    assert location_of(raised_by(in_both)) == "payments.models:locked"
    assert location_of(raised_by(lambda: Payment.objects.current(["no key"]))) == "choreography.storage.rows:_keys"


def test_reaction_error_and_location_each_make_a_difference() -> None:
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
    assert one.fingerprint == other.fingerprint == fingerprint(one.reaction, one.error, one.location)


def test_unreadable_messages_have_a_fingerprint_of_their_own(shop: Shop) -> None:
    shop.send("orders", b"rubbish")
    shop.send("orders", b"other rubbish")
    shop.send("orders", captured(uuid4()), "text/plain")
    shop.drain()
    rubbish, other, plain = sorted(shop.dead_letters("orders"), key=lambda dead_letter: dead_letter.pk)

    assert (rubbish.reaction, rubbish.error) == ("", Unusable.__name__)
    assert rubbish.fingerprint == other.fingerprint != plain.fingerprint
