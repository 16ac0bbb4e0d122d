"""Logging: structlog formats the project's and its libraries' records, as text or JSON."""

import logging
from typing import Any

import structlog

LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL")
STYLES = ("console", "json")
_SHARED: list[Any] = [
    structlog.contextvars.merge_contextvars,
    structlog.stdlib.add_log_level,
    structlog.stdlib.add_logger_name,
    structlog.processors.TimeStamper(fmt="iso", utc=True),
]
#: One list for all calls of ``logging_config``: structlog's cached loggers keep the list they were created with.
_OURS: list[Any] = []


class _Line(str):
    """A record of structlog, which is a line already."""

    __slots__ = ()


class _Formatter(structlog.stdlib.ProcessorFormatter):
    """Formats the records of libraries. Ours would be copied first, which takes longer than formatting them."""

    def format(self, record: logging.LogRecord) -> str:
        return record.msg if isinstance(record.msg, _Line) else super().format(record)


def _as_text(_logger: Any, _method: str, event: dict[str, Any]) -> str:
    """One line of text. Written by hand because structlog's own renderer takes three times as long."""
    at, level, what, where = (event.pop(key, "") for key in ("timestamp", "level", "event", "logger"))
    traceback = event.pop("exception", None)
    details = " ".join(f"{key}={_quoted(value)}" for key, value in event.items())
    line = f"{at} [{level:<9}] {what:<20} [{where}] {details}".rstrip()
    return f"{line}\n{traceback}" if traceback else line


def _quoted(value: Any) -> str:
    """A value as text, in quotes if it has spaces or line breaks."""
    return repr(value) if isinstance(value, str) and (" " in value or not value.isprintable()) else str(value)


def logging_config(level: str, style: str) -> dict[str, Any]:
    """Configure structlog, and return a dictionary for ``logging.config.dictConfig``.

    Args:
        level: name of the lowest level that is logged.
        style: ``console`` or ``json``.
    """
    # No format uses the caller or thread of a record, so don't look them up. Gunicorn's uses the process.
    # https://docs.python.org/3/howto/logging.html#optimization
    logging._srcfile = None
    logging.logThreads = logging.logMultiprocessing = False
    renderer: Any = _as_text if style == "console" else structlog.processors.JSONRenderer()

    def render(logger: Any, method: str, event: dict[str, Any]) -> tuple[tuple[_Line], dict[str, Any]]:
        return (_Line(renderer(logger, method, event)),), {}

    _OURS[:] = [structlog.stdlib.filter_by_level, *_SHARED, structlog.processors.format_exc_info, render]
    structlog.configure(
        processors=_OURS,
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=True,
    )
    formatter = {
        "()": _Formatter,
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
            # Celery logs two lines per task; the worker logs one line per event, with more detail.
            "celery.worker.strategy": {"level": "WARNING"},
            "celery.app.trace": {"level": "ERROR"},
            "celery.beat": {"level": "WARNING"},
            "django.request": {"level": "ERROR"},
            # It names its settings at every start.
            "axes.apps": {"level": "WARNING"},
            # Flower inspects workers that are still starting, and warns that they do not reply.
            "flower.inspector": {"level": "ERROR"},
        },
    }
