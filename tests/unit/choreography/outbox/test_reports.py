"""Reports on deliveries: there if and only if the outcome is, published together, taken twice without harm."""

import json
from collections.abc import Callable
from datetime import datetime
from typing import Any

import pytest
from pytest_django.fixtures import Settings

from choreography.core.clock import now
from choreography.core.errors import NotYet, PublishFailed, PublishRefused, Transient
from choreography.events.messages import published, read_event
from choreography.events.reports import PauseReport, report_type
from choreography.inbox.deliveries import PUBLISHED
from choreography.inbox.handler import handle_one
from choreography.outbox.reports import publish_reports, publish_status, report_pause
from payments.models import Report
from tests.unit.choreography.authorizing import calling, failing, placed
from tests.unit.choreography.outbox.recording import Recorder

pytestmark = [pytest.mark.django_db(databases="__all__"), pytest.mark.usefixtures("frozen")]

Change = Callable[..., None]
#: With the history of a delivery.
SEEN = {"x-choreography-first-seen": "2026-01-01T00:00:00+00:00"}


@pytest.fixture(autouse=True)
def reporting(without_journal: None, settings: Settings) -> None:
    settings.CHOREOGRAPHY = settings.CHOREOGRAPHY | {"REPORTS": ("payments",)}


def reports() -> list[dict[str, Any]]:
    return [report for row in Report.objects.order_by("position") for report in json.loads(row.body)]


def test_what_is_done_is_reported_with_its_times(settings: Settings) -> None:
    handle_one(placed(headers={PUBLISHED: "2026-01-01T00:00:00+00:00"}))

    [report] = reports()

    assert (report["outcome"], report["reaction"], report["attempt"]) == ("done", "payments.authorize_payment", 1)
    assert (report["flow"], report["subject"]) == ("flow", str(placed().event.subject))
    assert report["published_at"].startswith("2026-01-01T00:00:00")
    assert report["started_at"] <= report["ended_at"]


def test_what_is_rolled_back_is_not_reported_as_done(change: Change) -> None:
    change(function=failing(Transient("down")))

    handle_one(placed())

    [report] = reports()
    assert (report["outcome"], report["error"]) == ("retried", "Transient: down")
    assert datetime.fromisoformat(report["next_at"]) > datetime.fromisoformat(report["ended_at"])


def test_what_waits_for_another_event_says_so(change: Change) -> None:
    change(ask=calling(_not_yet))

    handle_one(placed())

    assert [report["outcome"] for report in reports()] == ["waiting"]


def test_a_duplicate_and_an_unusable_message_are_reported() -> None:
    handle_one(placed())
    handle_one(placed())
    handle_one(placed(body=b"rubbish"))

    assert [report["outcome"] for report in reports()] == ["done", "duplicate", "parked"]
    assert (reports()[2]["event_id"], reports()[2]["flow"]) == (None, "")
    assert reports()[2]["dead_letter"]


def test_what_no_database_can_hold_is_replaced() -> None:
    handle_one(placed(content_type="text/\0\ud800"))

    [report] = reports()
    assert report["outcome"] == "parked"
    assert "\0" not in report["error"]


def test_a_message_that_can_not_be_read_for_another_reason_is_parked_and_reported(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("choreography.inbox.deliveries.read_event", _bug)

    handle_one(placed(headers={"x-choreography-attempts": 9, "x-choreography-waits": 0, **SEEN}))

    [report] = reports()
    assert (report["outcome"], report["error"]) == ("parked", "RecursionError")
    assert report["event_id"] == "019b76da-a800-7000-8000-00000000000e"


def test_an_error_is_told_without_data_of_others(change: Change) -> None:
    change(function=failing(ValueError("ada@example.org is no number")))

    handle_one(placed())

    assert reports()[0]["error"] == "ValueError"


def test_pauses_go_out_with_the_deliveries_in_an_event_that_keeps_to_its_contract() -> None:
    handle_one(placed())
    report_pause("payments", PauseReport(dependency="gateway", error="down", since=now(), at=now(), is_over=False))
    report_pause("payments", PauseReport(dependency="gateway", since=now(), at=now(), is_over=True))
    recorder = Recorder()

    assert publish_reports("payments", recorder) == 3

    [[message]] = recorder.batches
    data: Any = read_event(message.body, published[report_type("payments")]).data
    assert [report.outcome for report in data.deliveries] == ["done"]
    assert [(pause.dependency, pause.is_over) for pause in data.pauses] == [("gateway", False), ("gateway", True)]


def test_a_service_that_does_not_report_tells_of_no_pause(settings: Settings) -> None:
    settings.CHOREOGRAPHY = settings.CHOREOGRAPHY | {"REPORTS": ()}

    report_pause("payments", PauseReport(dependency="gateway", error="down", since=now(), at=now(), is_over=False))

    assert not Report.objects.exists()


def test_a_service_that_does_not_report_writes_nothing(settings: Settings) -> None:
    settings.CHOREOGRAPHY = settings.CHOREOGRAPHY | {"REPORTS": ()}

    handle_one(placed())

    assert not Report.objects.exists()
    assert publish_reports("payments", Recorder()) == 0


def test_reports_go_out_as_one_event_that_keeps_to_its_contract() -> None:
    handle_one(placed())
    handle_one(placed())
    recorder = Recorder()

    assert publish_reports("payments", recorder) == 2

    [[message]] = recorder.batches
    assert message.exchange == report_type("payments")
    event = read_event(message.body, published[report_type("payments")])
    assert [report.outcome for report in event.data.deliveries] == ["done", "duplicate"]  # type: ignore[attr-defined]
    assert not Report.objects.exists()


def test_reports_wait_until_the_broker_has_confirmed() -> None:
    handle_one(placed())

    with pytest.raises(PublishFailed):
        publish_reports("payments", Recorder(PublishFailed("no confirmation")))

    assert len(reports()) == 1


def test_reports_that_the_broker_refuses_for_good_do_not_stop_the_relay() -> None:
    handle_one(placed())

    assert publish_reports("payments", Recorder(PublishRefused({0: "too large"}))) == 1

    assert not Report.objects.exists()


def test_more_than_fits_into_one_event_is_published_in_several(settings: Settings) -> None:
    settings.CHOREOGRAPHY = settings.CHOREOGRAPHY | {"MAX_BODY_BYTES": 2500}
    for _ in range(6):
        handle_one(placed())
    recorder = Recorder()

    while publish_reports("payments", recorder):
        continue

    assert len(recorder.batches) > 1
    assert all(len(message.body) <= 2500 for [message] in recorder.batches)


def test_a_status_says_how_the_service_is_doing() -> None:
    handle_one(placed())
    handle_one(placed(body=b"rubbish"))
    recorder = Recorder()

    publish_status("payments", recorder)

    [[message]] = recorder.batches
    status = json.loads(message.body)["data"]["status"]
    assert (status["outbox"], status["parked"], status["retries"], status["refused"]) == (1, 1, 0, 0)
    assert status["oldest"] is not None


def _bug(*_: object) -> None:
    raise RecursionError


def _not_yet(event: object) -> None:
    raise NotYet
