"""Logs: structlog for our own lines and everyone else's, as text for people or JSON for programs."""

import logging
from typing import Any

import structlog

_SHARED: list[Any] = [
    structlog.contextvars.merge_contextvars,
    structlog.stdlib.add_log_level,
    structlog.stdlib.add_logger_name,
    structlog.processors.TimeStamper(fmt="iso", utc=True),
]
#: One list, however often it is configured: loggers that are in use keep the one they began with.
_OURS: list[Any] = [
    structlog.stdlib.filter_by_level,
    *_SHARED,
    structlog.processors.format_exc_info,
    structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
]


def _as_text(_logger: Any, _method: str, event: dict[str, Any]) -> str:
    """A line for people. structlog's own renderer takes three times as long, two thirds of what a line costs."""
    at, level, what, where = (event.pop(key, "") for key in ("timestamp", "level", "event", "logger"))
    traceback = event.pop("exception", None)
    details = " ".join(f"{key}={_legible(value)}" for key, value in event.items())
    line = f"{at} [{level:<9}] {what:<20} [{where}] {details}".rstrip()
    return f"{line}\n{traceback}" if traceback else line


def _legible(value: Any) -> str:
    """Text with blanks or line ends in it in quotes, so that it is seen where it ends."""
    return repr(value) if isinstance(value, str) and (" " in value or not value.isprintable()) else str(value)


def logging_config(level: str, style: str) -> dict[str, Any]:
    """A ``logging.config.dictConfig`` dictionary; configures structlog on the way.

    Args:
        level: a level's name.
        style: ``console`` or ``json``.
    """
    # Nothing here says where in the code, in which thread or process a line was written, so don't find it out.
    # https://docs.python.org/3/howto/logging.html#optimization
    logging._srcfile = None
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False
    structlog.configure(
        processors=_OURS,
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=True,
    )
    renderer: Any = _as_text
    if style == "json":
        renderer = structlog.processors.JSONRenderer()
    formatter = {
        "()": structlog.stdlib.ProcessorFormatter,
        "processors": [structlog.stdlib.ProcessorFormatter.remove_processors_meta, renderer],
        "foreign_pre_chain": [*_SHARED, structlog.processors.format_exc_info],
    }
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "formatters": {"line": formatter},
        "handlers": {"stderr": {"class": "logging.StreamHandler", "formatter": "line"}},
        "root": {"handlers": ["stderr"], "level": level},
        "loggers": {
            # Celery's own line per task says less than ours per reaction, and says it twice.
            "celery.worker.strategy": {"level": "WARNING"},
            "celery.app.trace": {"level": "ERROR"},
            "celery.beat": {"level": "WARNING"},
            "django.request": {"level": "ERROR"},
            # Flower asks workers that are still starting, and warns that they do not answer.
            "flower.inspector": {"level": "ERROR"},
        },
    }
