"""What every service needs done as time passes: registered once per service, by ``apps.ChoreographyConfig``."""

from collections.abc import Callable
from functools import wraps

from choreography.core.conf import conf
from choreography.dead_letters.lost_retries import resend_lost_retries
from choreography.dead_letters.redrives import advance_all
from choreography.events.timers import Timer, register, timers
from choreography.operations.accounting import announce_accounts
from choreography.storage.retention import purge


def purge_old_events(service: str) -> None:
    """Delete old rows of the outbox and the inbox."""
    purge(service)


def redrive_dead_letters(service: str) -> None:
    """Continue what people have asked to be sent again from the dead letters."""
    advance_all(service)


def publish_lost_retries(service: str) -> None:
    """Publish again what should be back from the retry ladder and is not."""
    resend_lost_retries(service)


def register_timers(service: str) -> None:
    """Add the timers ``<service>.purge_old_events``, ``.redrive_dead_letters``, ``.publish_lost_retries``; of a service
    that reports also ``.announce_accounts``.

    Does nothing the second time: Django may load the apps of a process again, as ``modify_settings`` does in tests.
    """
    if f"{service}.purge_old_events" in {timer.name for timer in timers()}:
        return
    register(_timer(service, purge_old_events, "PURGE_SECONDS", lambda: conf().purge_seconds))
    register(_timer(service, redrive_dead_letters, "REDRIVE_SECONDS", lambda: conf().redrive_seconds))
    register(_timer(service, publish_lost_retries, "LOST_RETRIES_SECONDS", lambda: conf().lost_retries_seconds))
    if service in conf().reports:
        register(_timer(service, announce_accounts, "ACCOUNTS_SECONDS", lambda: conf().accounts_seconds))


def _timer(service: str, function: Callable[[str], None], setting: str, interval: Callable[[], float]) -> Timer:
    @wraps(function)
    def tick() -> None:
        function(service)

    return Timer(service, tick, f"CHOREOGRAPHY['{setting}']", interval)
