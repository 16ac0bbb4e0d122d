"""People are told of new marks: by mail, and by a call of a webhook that is really made."""

import json
from collections.abc import Iterator
from typing import Any

import pytest
from django.core import mail
from pytest_django.fixtures import Settings

from choreography.core import clock
from journal.models import Flow, MarkOfFlow
from journal.notices import tell_people
from tests.receiver import Receiver, receiver

pytestmark = pytest.mark.django_db(databases="__all__")


@pytest.fixture
def webhook(settings: Settings) -> Iterator[Receiver]:
    """A program that is told of marks."""
    with receiver() as webhook:
        settings.JOURNAL_WEBHOOK_URL = webhook.url
        yield webhook


def a_mark(flow: str = "order-1", **values: Any) -> MarkOfFlow:
    mark: MarkOfFlow = MarkOfFlow.objects.create(
        flow=flow, kind=Flow.Mark.MISSING, what="no payment", culprit="payments", remedy="Start its worker", **values
    )
    return mark


def test_a_webhook_is_called_once_for_all_new_marks(webhook: Receiver) -> None:
    a_mark("order-1")
    a_mark("order-2")

    tell_people()
    tell_people()

    [body] = webhook.bodies
    assert json.loads(body)["marks"] == [
        {
            "flow": flow,
            "kind": "missing",
            "what": "no payment",
            "culprit": "payments",
            "remedy": "Start its worker",
        }
        for flow in ("order-1", "order-2")
    ]


def test_nobody_is_told_of_what_has_been_put_right_meanwhile(webhook: Receiver) -> None:
    a_mark(cleared_at=clock.now())

    tell_people()

    assert webhook.bodies == []


@pytest.mark.parametrize("trouble", ["it fails", "it is down"])
def test_a_webhook_that_fails_is_called_again_and_sends_no_mail_again(
    webhook: Receiver, settings: Settings, trouble: str
) -> None:
    settings.JOURNAL_MAIL_TO = ["operator@example.org"]
    webhook.status = 503
    if trouble == "it is down":
        settings.JOURNAL_WEBHOOK_URL = "http://127.0.0.1:1"
    a_mark()

    tell_people()
    tell_people()
    webhook.status, settings.JOURNAL_WEBHOOK_URL = 200, webhook.url
    tell_people()

    assert len(mail.outbox) == 1
    assert len(webhook.bodies) == 1


def test_mail_that_can_not_be_sent_is_tried_again_and_calls_no_webhook_again(
    webhook: Receiver, settings: Settings
) -> None:
    settings.JOURNAL_MAIL_TO = ["operator@example.org"]
    settings.EMAIL_BACKEND, settings.EMAIL_HOST, settings.EMAIL_PORT = (
        "django.core.mail.backends.smtp.EmailBackend",
        "127.0.0.1",
        1,
    )
    a_mark()

    tell_people()
    assert len(webhook.bodies) == 1
    settings.EMAIL_BACKEND = "django.core.mail.backends.locmem.EmailBackend"
    tell_people()

    assert len(mail.outbox) == 1
    assert len(webhook.bodies) == 1


def test_who_wants_to_be_told_later_is_not_told_of_old_marks(webhook: Receiver, settings: Settings) -> None:
    a_mark("order-1")
    tell_people()
    settings.JOURNAL_MAIL_TO = ["operator@example.org"]
    a_mark("order-2")

    tell_people()

    [message] = mail.outbox
    assert message.subject == "1 flow is overdue"
