"""``manage.py dead_letters``: everything a person can do about what is parked, for people and for programs."""

import io
import json
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from django.core.management import CommandError, call_command
from pytest_django.fixtures import Settings

from choreography.broker.publisher import Publisher
from choreography.dead_letters import actions, redrives
from choreography.events.messages import CONTENT_TYPE
from choreography.storage.tables import ServiceTables
from tests.shop_in_a_box import Shop
from tests.unit.choreography.parked import captured, history, mend, park, states

pytestmark = pytest.mark.django_db(databases="__all__")


@pytest.fixture
def heard(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> Shop:
    """What the command sends is heard by the shop."""

    @contextmanager
    def to_the_shop(service: str) -> Iterator[Publisher]:
        yield shop

    monkeypatch.setattr(actions, "to_the_broker", to_the_shop)
    return shop


@pytest.fixture
def answered(heard: Shop, monkeypatch: pytest.MonkeyPatch) -> Shop:
    """And whenever the command looks how it goes, it was handled, and time has passed."""
    look = redrives.progress

    def handle_and_look(followed: Any) -> redrives.Progress:
        heard.drain()
        heard.time.advance(1)
        return look(followed)

    monkeypatch.setattr(redrives, "progress", handle_and_look)
    return heard


def run(*words: object) -> str:
    out = io.StringIO()
    call_command("dead_letters", *map(str, words), stdout=out)
    return out.getvalue()


def refused(*words: object, code: int = 1) -> str:
    with pytest.raises(CommandError) as caught:
        run(*words)
    assert caught.value.returncode == code
    return str(caught.value)


def test_with_nothing_parked_it_says_nothing(shop: Shop) -> None:
    assert run("list") == ""
    assert json.loads(run("list", "--json")) == []


def test_the_list_is_grouped_and_names_what_to_type_next(shop: Shop) -> None:
    dead_letter, *_ = park(shop, 3)

    shown = run("list")

    assert shown.startswith(f"orders {dead_letter.fingerprint} orders.record_capture: UnknownOrder at orders.")
    assert "\n  3 parked; first 2026-01-01T00:00:00+00:00, last 2026-01-01T00:00:00+00:00\n" in shown
    assert run("list", "--service", "payments") == ""
    (row,) = json.loads(run("list", "--service", "orders", "--json"))
    assert (row["service"], row["fingerprint"], row["parked"]) == ("orders", dead_letter.fingerprint, 3)


def test_the_dead_letters_of_a_group_can_be_listed(shop: Shop) -> None:
    one, other = park(shop, 2)

    lines = run("list", "--fingerprint", one.fingerprint).splitlines()
    rows = json.loads(run("list", "--fingerprint", one.fingerprint, "--json"))

    assert lines[0].startswith(f"orders {other.pk} parked about {other.subject}: ")
    assert [row["number"] for row in rows] == [other.pk, one.pk]


def test_one_dead_letter_is_shown_whole_with_its_history(shop: Shop) -> None:
    (dead_letter,) = park(shop)
    actions.discard(dead_letter, actions.By("ada", "it was a test"))

    shown = run("show", "orders", dead_letter.pk)
    found = json.loads(run("show", "orders", dead_letter.pk, "--json"))

    for text in (str(dead_letter.subject), "UnknownOrder", "Traceback", "payments.payment_captured.v1", "ada discard"):
        assert text in shown
    assert json.loads(found["body"])["subject"] == found["subject"] == str(dead_letter.subject)
    assert found["history"][0]["why"] == "it was a test"


def test_a_body_that_is_no_text_is_shown_in_base64(shop: Shop) -> None:
    shop.send("orders", b"\xff")
    shop.drain()
    (dead_letter,) = shop.dead_letters("orders")

    assert json.loads(run("show", "orders", dead_letter.pk, "--personal", "--json"))["body_base64"] == "/w=="


def test_personal_data_is_shown_only_if_asked_for(shop: Shop) -> None:
    shop.send("orders", b"Ada Example")
    shop.drain()
    (dead_letter,) = shop.dead_letters("orders")
    actions.discard(dead_letter, actions.By("ada", "it was a test"))

    assert "Ada Example" not in run("show", "orders", dead_letter.pk)
    assert json.loads(run("show", "orders", dead_letter.pk, "--json"))["body"] == "***"
    assert "Ada Example" in run("show", "orders", dead_letter.pk, "--personal")


def test_a_dry_run_shows_and_changes_nothing(shop: Shop) -> None:
    (dead_letter,) = park(shop)
    mend(dead_letter)

    shown = run("dry-run", "orders", dead_letter.pk, "--by", "ada", "--why", "to see")
    found = json.loads(run("dry-run", "orders", dead_letter.pk, "--json"))

    assert f"orders.order {dead_letter.subject} changed:" in shown
    assert "captured_at: None -> " in shown
    assert (found["outcome"], found["changes"][0]["what"]) == ("would_take_effect", "changed")
    assert states() == ["parked"]
    assert dead_letter.actions.order_by("pk").first().who == "ada"


def test_a_dry_run_that_would_fail_or_call_ends_with_one(shop: Shop, capsys: pytest.CaptureFixture[str]) -> None:
    (dead_letter,) = park(shop)
    with pytest.raises(SystemExit) as caught:
        run("dry-run", "orders", dead_letter.pk)
    assert caught.value.code == 1

    shop.place()
    shop.relay("orders")
    message = shop.take("payments")
    assert message is not None
    asking = ServiceTables("payments").dead_letters.create(
        key="k", error="E", message="", body=message.body, content_type=CONTENT_TYPE
    )
    with pytest.raises(SystemExit):
        call_command("dead_letters", "dry-run", "payments", str(asking.pk))
    assert "it would call authorize of the payment gateway:\n" in capsys.readouterr().out


def test_dead_letters_are_sent_again(heard: Shop) -> None:
    one, other = park(heard, 2)

    assert run("retry", "orders", one.pk, other.pk, "--why", "mended") == (
        f"{one.pk} sent again\n{other.pk} sent again\n"
    )

    assert states() == ["retrying", "retrying"]
    assert "is not parked but sent again" in refused("retry", "orders", one.pk)
    assert one.actions.get().why == "mended"


def test_with_the_broker_down_it_says_so(shop: Shop, settings: Settings) -> None:
    (dead_letter,) = park(shop)
    settings.CHOREOGRAPHY = settings.CHOREOGRAPHY | {"BROKER_URL": "amqp://guest:guest@127.0.0.1:1//"}

    assert refused("retry", "orders", dead_letter.pk).startswith("The broker did not take it, so it stays parked.")
    assert states() == ["parked"]


def test_a_group_is_followed_to_its_end(answered: Shop) -> None:
    mend(*park(answered, 10))

    told = run("retry-group", "orders", *group(), "--rate", 100).splitlines()

    assert told[0] == "step 1: 1 sent, 1 took effect, 0 without an outcome yet, 9 left"
    assert told[-1].endswith("10 sent, 10 took effect, 0 without an outcome yet, 0 left")
    assert set(states()) == {"resolved"}


def group() -> list[str]:
    return [each.fingerprint for each in actions.groups("orders")]


def test_a_group_that_stops_ends_with_one_and_says_why(answered: Shop) -> None:
    dead_letter, *_ = park(answered, 10)

    assert refused("retry-group", "orders", *group()).startswith(
        f"Dead letter {dead_letter.pk} was parked again: UnknownOrder"
    )

    assert len(history()) == 1


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_it_goes_on_without(heard: Shop, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    park(heard, 10)
    look = redrives.progress

    def be_interrupted(followed: Any) -> redrives.Progress:
        os.kill(os.getpid(), number)
        return look(followed)

    monkeypatch.setattr(redrives, "progress", be_interrupted)
    before = signal.getsignal(number)

    with pytest.raises(SystemExit) as caught:
        run("retry-group", "orders", *group())

    assert caught.value.code == 130
    assert redrives.running("orders").count() == 1
    assert signal.getsignal(number) == before
    assert "is being sent again already" in refused("retry-group", "orders", *group())


def test_the_broker_may_be_away_while_a_group_is_followed(answered: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    from choreography.core.errors import Outage
    from choreography.management.commands import dead_letters

    mend(*park(answered, 2))
    there, downs = actions.to_the_broker, iter([True, False])

    def sometimes(service: str) -> Any:
        if next(downs, False):
            raise Outage("down")
        return there(service)

    monkeypatch.setattr(actions, "to_the_broker", sometimes)
    monkeypatch.setattr(dead_letters, "_PAUSE", 0.0)

    run("retry-group", "orders", *group())

    assert set(states()) == {"resolved"}


def test_a_group_can_be_stopped(shop: Shop) -> None:
    (dead_letter,) = park(shop)
    started = redrives.start("orders", dead_letter.fingerprint, actions.By("ada"))

    assert run("stop", "orders", dead_letter.fingerprint, "--by", "bob") == f"{dead_letter.fingerprint} stopped\n"

    started.refresh_from_db()
    assert started.note == "Stopped by bob."
    assert refused("stop", "orders", dead_letter.fingerprint) == f"{dead_letter.fingerprint} is not being sent again."


@pytest.mark.parametrize("source", ["file", "stdin"])
def test_a_dead_letter_is_edited(heard: Shop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str) -> None:
    good = captured(uuid4())
    heard.send("orders", b"rubbish")
    heard.drain()
    (dead_letter,) = heard.dead_letters("orders")
    path = tmp_path / "body.json"
    path.write_bytes(good)
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(good)))

    assert run("edit", "orders", dead_letter.pk, "--body", path if source == "file" else "-") == (
        f"{dead_letter.pk} changed and sent again\n"
    )

    assert bytes(heard.dead_letters("orders")[0].body) == good


def test_an_edit_that_is_refused_changes_nothing(heard: Shop, tmp_path: Path) -> None:
    (dead_letter,) = park(heard)
    path = tmp_path / "body.json"
    path.write_bytes(captured(uuid4()))

    assert "It would be another event: id, subject must stay" in refused(
        "edit", "orders", dead_letter.pk, "--body", path
    )
    assert "can't be read" in refused("edit", "orders", dead_letter.pk, "--body", tmp_path / "none", code=2)
    assert (states(), history()) == (["parked"], [])


def test_dead_letters_are_discarded_for_a_reason(shop: Shop) -> None:
    (dead_letter,) = park(shop)

    assert refused("discard", "orders", dead_letter.pk) == "Say why it is to be discarded."
    assert run("discard", "orders", dead_letter.pk, "--why", "a test order") == f"{dead_letter.pk} discarded\n"
    assert states() == ["discarded"]


UNKNOWN: list[Callable[[], str]] = [
    lambda: refused("list", "--service", "nobody", code=2),
    lambda: refused("show", "nobody", 1, code=2),
    lambda: refused("retry-group", "nobody", "0123", code=2),
]


@pytest.mark.parametrize("ask", UNKNOWN)
def test_an_unknown_service_is_refused_with_those_there_are(ask: Callable[[], str]) -> None:
    assert ask() == "nobody is no service of this process. There are orders, payments, shipping."


@pytest.mark.parametrize("words", [("show",), ("dry-run",), ("retry",), ("discard",), ("edit", "--body", "-")])
def test_an_unknown_dead_letter_is_refused_with_where_to_look(words: tuple[str, ...]) -> None:
    name, *more = words

    assert refused(name, "orders", 99, *more, code=2) == (
        "orders has no dead letter 99. See manage.py dead_letters list --service orders."
    )


def test_a_group_nobody_has_parked_is_refused() -> None:
    assert refused("retry-group", "orders", "0123") == "No dead letter of 0123 is parked."
