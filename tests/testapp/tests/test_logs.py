"""Where nothing is configured, what the machinery has to say goes to Python's logging."""

import logging

import pytest
import structlog

from choreography.core import logs
from choreography.testing import Choreography
from tests.testapp.services.kitchen import services


def test_records_are_lines_of_the_loggers_of_the_package(
    choreography: Choreography, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    with caplog.at_level(logging.INFO, logger="choreography"):
        services.cook("table 7", "soup", 850)
        choreography.settle()

    [record] = [record for record in caplog.records if "billing.write_bill" in record.getMessage()]
    assert record.name == "choreography.inbox.handler"
    assert record.getMessage().startswith('event="reaction done" ')
    assert 'flow="table 7"' in record.getMessage()
    assert capsys.readouterr().out == ""


def test_a_configuration_of_the_project_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    before = structlog.get_config()

    logs.configure()

    assert structlog.get_config() == before
