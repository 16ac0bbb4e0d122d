"""What a browser is told, and who guesses passwords."""

import pytest
from django.contrib.auth import get_user_model
from django.test import Client
from pytest_django.fixtures import Settings

pytestmark = pytest.mark.django_db(databases="__all__")

PASSWORD = "chosen by a person"


@pytest.fixture
def admin(db: None, settings: Settings) -> None:
    settings.PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]  # the others are slow on purpose
    get_user_model().objects.create_superuser("chief", password=PASSWORD)


def log_in(client: Client, password: str, **more: str) -> int:
    return client.post("/admin/login/", {"username": "chief", "password": password, **more}).status_code


@pytest.mark.usefixtures("admin")
def test_who_guesses_a_password_is_stopped_after_five_times() -> None:
    client = Client()
    assert [log_in(client, f"guess {number}") for number in range(5)][:4] == [200] * 4

    assert log_in(client, PASSWORD) == 429


@pytest.mark.usefixtures("admin")
def test_another_address_is_not_concerned() -> None:
    for number in range(5):
        log_in(Client(REMOTE_ADDR="192.0.2.1"), f"guess {number}")

    assert log_in(Client(REMOTE_ADDR="192.0.2.2"), PASSWORD) == 302


@pytest.mark.usefixtures("admin")
def test_who_mistypes_now_and_then_is_not_stopped() -> None:
    client = Client()
    for _ in range(3):
        assert [log_in(client, "mistyped") for _ in range(4)] == [200] * 4
        assert log_in(client, PASSWORD) == 302
        client.post("/admin/logout/")


@pytest.mark.usefixtures("admin")
def test_an_address_elsewhere_is_not_followed_after_the_login() -> None:
    client = Client()
    response = client.post("/admin/login/", {"username": "chief", "password": PASSWORD, "next": "https://example.org/"})

    assert (response.status_code, response["Location"]) == (302, "/")
    assert client.get(response["Location"]).status_code == 200


@pytest.mark.parametrize("page", ["/", "/admin/login/"])
def test_a_page_may_load_nothing_from_elsewhere_and_run_nothing_of_its_own(page: str) -> None:
    policy = Client().get(page)["Content-Security-Policy"]

    assert {"default-src 'none'", "script-src 'self'"} <= {*policy.split("; ")}
    assert "unsafe" not in policy


def test_there_is_an_icon() -> None:
    assert Client().get("/favicon.ico").status_code == 302
