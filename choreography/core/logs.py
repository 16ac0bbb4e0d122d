"""Where log records go in a project that has not configured structlog: to Python's ``logging``, one line each."""

import structlog


def configure() -> None:
    """Pass records on to the loggers ``choreography.*``, so that Django's ``LOGGING`` decides what becomes of them.

    A line is in logfmt (https://brandur.org/logfmt): ``event="delivery retried" event_id=… reaction=…``. Does nothing
    where structlog is configured: then that configuration holds.
    """
    if structlog.is_configured():
        return
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            structlog.processors.format_exc_info,
            structlog.processors.LogfmtRenderer(key_order=["event"], bool_as_flag=False),
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
    )
