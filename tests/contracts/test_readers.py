"""Readers are known by the files they commit, so that a change is held against those that run elsewhere too."""

import json
import shutil
import subprocess
from pathlib import Path

import pytest
from django.core.management import CommandError, call_command
from pydantic import Field
from pytest_django.fixtures import Settings

from choreography.core.conf import conf
from choreography.core.errors import ContractError
from choreography.events import compatibility, readers
from choreography.events.messages import published
from choreography.events.readers import all_readers
from orders.events import Address, LineV2
from tests.contracts.test_contract_gate import OrderPlacedFields

V1, V2 = "orders.order_placed.v1", "orders.order_placed.v2"
WAREHOUSE = Path(__file__).parent / "warehouse"


@pytest.fixture
def redefine(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave room for another class of the event type ``orders.order_placed.v2``; put the real one back afterwards."""
    monkeypatch.delitem(published, V2)


@pytest.fixture
def elsewhere(settings: Settings) -> None:
    """Payments runs elsewhere: this process has only its file."""
    services = tuple(service for service in settings.CHOREOGRAPHY["SERVICES"] if service != "payments")
    settings.CHOREOGRAPHY = settings.CHOREOGRAPHY | {"SERVICES": services}


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The warehouse's repository, at its tag ``r1``."""
    folder = tmp_path_factory.mktemp("warehouse") / "repository"
    shutil.copytree(WAREHOUSE, folder)
    git = ["git", "-C", str(folder), "-c", "user.name=Ada", "-c", "user.email=ada@example.org"]
    for command in (["init", "-q"], ["add", "."], ["commit", "-qm", "Pick what was ordered"], ["tag", "r1"]):
        subprocess.run([*git, *command], check=True)
    return f"file://{folder}@r1"


def test_committed_files_say_what_the_code_reads() -> None:
    assert [*readers.faults()] == []


def test_a_file_that_is_out_of_date_is_named(settings: Settings, tmp_path: Path) -> None:
    shutil.copytree(conf().contracts_dir, tmp_path / "contracts")
    settings.CHOREOGRAPHY = settings.CHOREOGRAPHY | {"CONTRACTS_DIR": tmp_path / "contracts"}
    path = tmp_path / "contracts" / "readers" / "payments.json"
    path.write_text(path.read_text().replace("payment_token", "token"))

    with pytest.raises(CommandError, match=r"what payments reads is not what readers/payments.json says"):
        call_command("choreography", "contracts")


def test_a_service_reads_field_by_field_and_older_versions_too() -> None:
    document = json.loads((conf().contracts_dir / "readers" / "payments.json").read_text())

    by_events = {tuple(entry["event_types"]): entry for entry in document["reads"]}

    assert set(by_events[V2,]["schema"]["properties"]) == {"payment_token", "total", "currency"}
    assert by_events[V2,]["subscribed"]
    assert not by_events[V1,]["subscribed"]


@pytest.mark.usefixtures("redefine", "elsewhere")
def test_a_reader_that_runs_elsewhere_is_named_by_its_file() -> None:
    class WithoutTotal(OrderPlacedFields, type=V2):
        ship_to: Address = Field(description="where to")
        total: str = Field(description="no number any more")  # type: ignore[assignment]

    assert [*compatibility.broken_readers(WithoutTotal)] == ["payments.authorize_payment: total"]


@pytest.mark.usefixtures("redefine")
def test_a_reader_of_another_repository_is_named_before_the_change_lands(repository: str) -> None:
    class Bundle(LineV2):
        sku: tuple[str, ...] = Field(description="several")  # type: ignore[assignment]

    class Bundled(OrderPlacedFields, type=V2):
        lines: tuple[Bundle, ...] = Field(description="what was ordered")

    found = [*compatibility.faults([repository])]

    assert f"{V2} breaks warehouse.pick: lines" in found
    assert f"{V2} breaks warehouse.pick: lines" not in [*compatibility.faults()]


def test_a_folder_of_readers_may_be_named(tmp_path: Path) -> None:
    call_command("choreography", "contracts", "check", "--readers", str(WAREHOUSE))

    assert "warehouse.pick" in {reader.reaction for reader in all_readers([str(WAREHOUSE)])}


def test_a_reader_of_what_nobody_announces_is_named(tmp_path: Path) -> None:
    document = json.loads((WAREHOUSE / "contracts" / "readers" / "warehouse.json").read_text())
    document["reads"][0]["event_types"] = ["orders.order_packed.v1"]
    (tmp_path / "warehouse.json").write_text(json.dumps(document))

    assert [*compatibility.faults([str(tmp_path)])] == [
        "warehouse.pick reads orders.order_packed.v1, which nobody announces: check its name and version"
    ]


@pytest.mark.parametrize(
    ("source", "why"),
    [
        ("/nowhere", "is neither a folder nor <git URL>"),
        ("file:///nowhere@main", "can't be read"),
        ("--upload-pack=touch /tmp/x@main", "is neither a folder nor <git URL>"),
    ],
)
def test_a_source_that_is_none_is_refused(source: str, why: str) -> None:
    with pytest.raises(ContractError, match=why):
        all_readers([source])


def test_a_file_that_is_no_file_of_readers_is_refused_with_its_shape(tmp_path: Path) -> None:
    (tmp_path / "wrong.json").write_text('{"reads": 1}')

    with pytest.raises(CommandError, match=r"wrong.json is no file of readers .* write \{"):
        call_command("choreography", "contracts", "check", "--readers", str(tmp_path))
