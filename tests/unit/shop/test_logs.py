"""Logs, as they are set up."""

import structlog
import structlog.testing

from shop.logs import logging_config


def test_a_logger_in_use_can_still_be_listened_to_when_logs_were_set_up_again() -> None:
    log = structlog.get_logger("in use")
    log.warning("first")

    logging_config("WARNING", "console")

    with structlog.testing.capture_logs() as lines:
        log.warning("second")
    assert [line["event"] for line in lines] == ["second"]
