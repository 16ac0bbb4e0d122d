"""The machinery's settings: defaults, and no misspelt name goes unnoticed."""

from pathlib import Path

import pytest
from django.core.exceptions import ImproperlyConfigured
from pytest_django.fixtures import Settings

from choreography.core.conf import Conf, conf


def test_without_settings_the_defaults_hold(settings: Settings) -> None:
    del settings.CHOREOGRAPHY
    assert conf() == Conf(
        data_dir=Path(settings.BASE_DIR, "var"),
        contracts_dir=Path(settings.BASE_DIR, "contracts"),
        broker_url=f"embedded://{settings.BASE_DIR}/var/broker.sqlite3",
    )


def test_a_setting_replaces_its_default(settings: Settings) -> None:
    settings.CHOREOGRAPHY = {"RETRY_RUNGS": (2, 4), "NAMESPACE": "test.", "SERVICES": ["orders"]}
    assert (conf().retry_rungs, conf().namespace, conf().services) == ((2, 4), "test.", ("orders",))
    assert conf().max_attempts == Conf.max_attempts


def test_a_relative_folder_is_one_of_the_project(settings: Settings) -> None:
    settings.CHOREOGRAPHY = {"DATA_DIR": "state", "CONTRACTS_DIR": Path("docs/contracts")}
    assert conf().data_dir == Path(settings.BASE_DIR, "state")
    assert conf().contracts_dir == Path(settings.BASE_DIR, "docs", "contracts")


def test_an_absolute_folder_stays_as_it_is(settings: Settings, tmp_path: Path) -> None:
    settings.CHOREOGRAPHY = {"DATA_DIR": str(tmp_path / "state"), "CONTRACTS_DIR": tmp_path}
    assert (conf().data_dir, conf().contracts_dir) == (tmp_path / "state", tmp_path)


def test_without_a_project_folder_the_working_directory_is_it(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    del settings.BASE_DIR
    settings.CHOREOGRAPHY = {}
    monkeypatch.chdir(tmp_path)
    assert conf().data_dir == tmp_path / "var"


@pytest.mark.parametrize("given", [{}, {"BROKER_URL": ""}], ids=repr)
def test_without_a_broker_url_the_broker_is_a_file_in_the_data_folder(
    settings: Settings, tmp_path: Path, given: dict[str, str]
) -> None:
    settings.CHOREOGRAPHY = given | {"DATA_DIR": tmp_path}
    assert conf().broker_url == f"embedded://{tmp_path}/broker.sqlite3"


def test_a_broker_url_is_used_as_it_is(settings: Settings) -> None:
    settings.CHOREOGRAPHY = {"BROKER_URL": "amqp://broker//"}
    assert conf().broker_url == "amqp://broker//"


def test_an_unknown_setting_is_refused_and_the_known_ones_are_named(settings: Settings) -> None:
    settings.CHOREOGRAPHY = {"RETRY_TIER": (1,), "MAX_AGE": None, "COLOUR": "red"}
    with pytest.raises(ImproperlyConfigured, match=r"unknown settings COLOUR, RETRY_TIER\. Known are .*RETRY_RUNGS"):
        conf()
