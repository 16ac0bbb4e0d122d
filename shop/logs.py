"""Logs: structlog for our own lines and everyone else's, as text for people or JSON for programs."""

from typing import Any

import structlog

_SHARED: list[Any] = [
    structlog.contextvars.merge_contextvars,
    structlog.stdlib.add_log_level,
    structlog.stdlib.add_logger_name,
    structlog.processors.TimeStamper(fmt="iso", utc=True),
]


def logging_config(level: str, style: str) -> dict[str, Any]:
    """A ``logging.config.dictConfig`` dictionary; configures structlog on the way.

    Args:
        level: a level's name.
        style: ``console`` or ``json``.
    """
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *_SHARED,
            structlog.processors.format_exc_info,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=True,
    )
    renderer: Any = structlog.dev.ConsoleRenderer(colors=False, pad_event_to=20, sort_keys=False)
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
