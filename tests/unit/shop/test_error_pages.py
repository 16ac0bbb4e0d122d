"""Where a page can't be shown, the person is told why in the shop's own pages, and what to do."""

from typing import Any

import pytest
from django.contrib.auth.models import User
from django.http import HttpResponse
from django.test import Client

pytestmark = pytest.mark.django_db(databases="__all__")


def text_of(response: Any) -> str:
    return " ".join(response.content.decode().split())


def test_who_lacks_a_permission_is_told_which(client: Client) -> None:
    client.force_login(User.objects.create_user("clerk", is_staff=True))

    response = client.get("/flows/")

    assert response.status_code == 403
    assert "Ask for the permission journal.view_flow." in text_of(response)
    assert "You are logged in as clerk." in text_of(response)


def test_a_refusal_without_a_reason_says_whom_to_ask(client: Client) -> None:
    client.force_login(User.objects.create_user("clerk", is_staff=True))

    response = client.get("/admin/orders/order/")

    assert response.status_code == 403
    assert "Your account lacks a permission for it." in text_of(response)


def test_what_is_missing_is_named(admin_client: Client) -> None:
    response = admin_client.get("/contracts/no_such_event/")

    assert response.status_code == 404
    assert "There is no event no_such_event." in text_of(response)


def test_an_address_that_nothing_answers_says_so_without_terms_of_the_framework(client: Client) -> None:
    response = client.get("/nowhere/")

    assert response.status_code == 404
    assert "Check the address" in text_of(response)
    assert "Resolver404" not in text_of(response)


@pytest.mark.parametrize("address", ["/flows/?q=%00", "/admin/orders/order/?status=a%00b", "/flows/a%00b/", "/%00"])
def test_an_address_with_a_null_character_is_refused(admin_client: Client, address: str) -> None:
    response = admin_client.get(address)

    assert response.status_code == 400
    assert "It has characters that nothing here can have." in text_of(response)


def test_a_percent_sign_and_zeros_are_no_null_character(admin_client: Client) -> None:
    assert admin_client.get("/admin/orders/order/?q=%2500").status_code == 200


def test_a_form_that_is_no_longer_valid_says_how_to_send_it() -> None:
    response = Client(enforce_csrf_checks=True).post("/admin/login/", {"username": "clerk"})

    assert response.status_code == 403
    assert "reload the page, and send the form again" in text_of(response)


def test_an_error_of_the_program_says_what_to_look_at(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*args: object) -> HttpResponse:
        raise ZeroDivisionError

    monkeypatch.setattr("shop.views.render", broken)
    response = Client(raise_request_exception=False).get("/")

    assert response.status_code == 500
    assert "look before you send it again" in text_of(response)


def test_who_typed_five_wrong_passwords_is_told_for_how_long_they_wait(client: Client) -> None:
    User.objects.create_user("clerk", password="right", is_staff=True)
    for _ in range(5):
        response = client.post("/admin/login/", {"username": "clerk", "password": "wrong"})

    assert response.status_code == 429
    assert "After 5 wrong passwords in a row" in text_of(response)
    assert "0:15:00" in text_of(response)
