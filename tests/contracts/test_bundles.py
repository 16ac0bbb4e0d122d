"""Contracts and golden messages travel in one file, so that a reader in another repository finds out what breaks it."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from django.core.management import CommandError, call_command
from pytest_django.fixtures import Settings

from choreography.events.messages import published
from tests.contracts.test_readers import V2, WAREHOUSE


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    path = tmp_path / "bundle.json"
    call_command("choreography", "contracts", "export", str(path))
    return path


def change(bundle: Path, event_type: str, without: str) -> None:
    """As if the publisher had dropped a field."""
    exported = json.loads(bundle.read_text())
    event = exported["events"][event_type]
    del event["schema"]["properties"][without]
    event["schema"]["required"].remove(without)
    for message in event["examples"].values():
        del message["data"][without]
    bundle.write_text(json.dumps(exported))


def checked_by_the_warehouse(bundle: Path) -> Any:
    command = [sys.executable, str(WAREHOUSE / "check.py"), str(bundle)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60)


def test_a_bundle_has_each_event_with_its_contract_and_its_messages(bundle: Path) -> None:
    events = json.loads(bundle.read_text())["events"]

    assert set(events) == set(published)
    assert events[V2]["schema"]["title"] == "OrderPlacedV2"
    assert set(events[V2]["examples"]) == {"minimal", "full"}


def test_a_repository_without_django_finds_out_what_breaks_it(bundle: Path) -> None:
    assert checked_by_the_warehouse(bundle).returncode == 0

    change(bundle, V2, without="lines")
    broken = checked_by_the_warehouse(bundle)

    assert broken.returncode == 1
    assert f"{V2}, golden message minimal: KeyError: 'lines'" in broken.stdout


def test_a_repository_without_django_finds_out_that_an_event_is_gone(bundle: Path) -> None:
    exported = json.loads(bundle.read_text())
    del exported["events"][V2]
    bundle.write_text(json.dumps(exported))

    assert f"{V2} is announced no more" in checked_by_the_warehouse(bundle).stderr


def test_a_repository_with_django_finds_out_what_breaks_it(bundle: Path) -> None:
    call_command("choreography", "contracts", "check", "--publishers", str(bundle))

    change(bundle, V2, without="total")
    with pytest.raises(CommandError) as refused:
        call_command("choreography", "contracts", "check", "--publishers", str(bundle))

    assert f"{V2} breaks payments.authorize_payment: total" in str(refused.value)
    assert f"the golden message minimal of {V2} can't be read by payments.authorize_payment" in str(refused.value)


def test_an_event_that_is_read_and_not_in_the_bundle_is_named(bundle: Path) -> None:
    exported = json.loads(bundle.read_text())
    del exported["events"]["payments.payment_captured.v1"]
    bundle.write_text(json.dumps(exported))

    with pytest.raises(CommandError, match=r"orders.record_capture reads payments.payment_captured.v1, which nobody"):
        call_command("choreography", "contracts", "check", "--publishers", str(bundle))


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"events": {"a": 1}}', '{"events": {"a.b.v1": {}}}'])
def test_a_file_that_is_no_bundle_is_refused(text: str, tmp_path: Path, settings: Settings) -> None:
    (tmp_path / "bundle.json").write_text(text)

    with pytest.raises(CommandError, match=r"bundle.json is no bundle of contracts .* contracts export"):
        call_command("choreography", "contracts", "check", "--publishers", str(tmp_path / "bundle.json"))


@pytest.mark.parametrize("arguments", [["export"], ["check", "bundle.json"], ["retire-check"]])
def test_an_argument_that_lacks_or_is_too_much_is_named(arguments: list[str]) -> None:
    with pytest.raises(CommandError, match="retire-check takes an event type and export a file; check takes neither"):
        call_command("choreography", "contracts", *arguments)


def test_a_bundle_that_can_not_be_written_is_named(tmp_path: Path) -> None:
    with pytest.raises(CommandError, match=r"nowhere/bundle\.json can't be written: No such file or directory\."):
        call_command("choreography", "contracts", "export", str(tmp_path / "nowhere" / "bundle.json"))
