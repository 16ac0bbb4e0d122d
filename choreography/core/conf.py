"""The machinery's own settings: typed defaults over the ``CHOREOGRAPHY`` dictionary of the Django settings."""

from dataclasses import dataclass, fields
from datetime import timedelta
from functools import cache

from django.conf import settings
from django.core.exceptions import ImproperlyConfigured
from django.core.signals import setting_changed


@dataclass(frozen=True)
class Conf:
    """Every knob, with its default. ``CHOREOGRAPHY = {"RETRY_TIERS": (1, 5)}`` sets ``retry_tiers``."""

    services: tuple[str, ...] = ()
    """App labels of the services this process knows."""
    broker_url: str = ""
    """amqp://user:password@host:port/vhost, or embedded:///path/to/file.sqlite3"""
    namespace: str = ""
    """Put before every name on the broker, so that several installations can share one."""
    retry_tiers: tuple[int, ...] = (1, 5, 30, 300)
    """The rungs of the retry ladder, in seconds, rising. Each is a queue per service."""
    max_attempts: int = 10
    """Transient faults: counted attempts before a delivery is parked."""
    max_attempts_of_a_bug: int = 3
    """Any unexpected exception: attempts before a delivery is parked."""
    max_age: timedelta = timedelta(days=1)
    """Transient faults: parked when the first attempt lies this far back."""
    max_wait: timedelta = timedelta(minutes=10)
    """A delivery that waits for another event is parked after this."""
    retry_overdue: timedelta = timedelta(minutes=1)
    """A delivery that is not back from the ladder so long after its rung's time is sent again."""
    max_body_bytes: int = 256 * 1024
    """A larger message is not read but parked."""
    delivery_limit: int = 20
    """Deliveries without an answer (a worker died each time) before the broker gives the message up."""
    group: int = 100
    """Deliveries a worker handles in one transaction, at most."""
    asking: timedelta = timedelta(seconds=0.5)
    """A group asks the outside world so long, then commits what was answered."""
    relay_batch: int = 500
    """Events the relay moves in one transaction."""
    confirm_timeout: float = 10.0
    """Seconds the broker has to confirm a batch."""
    keep_outbox: timedelta = timedelta(days=30)
    """Published outbox rows are kept this long, for people to look at."""
    keep_inbox: timedelta = timedelta(days=90)
    """Inbox rows are kept this long; a duplicate that comes later would be handled again."""


@cache
def conf() -> Conf:
    """The settings in force.

    Raises:
        ImproperlyConfigured: ``CHOREOGRAPHY`` has a name this page does not know.
    """
    given = {name.lower(): value for name, value in getattr(settings, "CHOREOGRAPHY", {}).items()}
    unknown = given.keys() - {field.name for field in fields(Conf)}
    if unknown:
        known = ", ".join(field.name.upper() for field in fields(Conf))
        raise ImproperlyConfigured(
            f"CHOREOGRAPHY has unknown settings {', '.join(sorted(unknown)).upper()}. Known are {known}."
        )
    return Conf(**given)


# Only tests change settings while running.
setting_changed.connect(lambda **_: conf.cache_clear(), weak=False)
