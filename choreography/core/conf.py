"""The package's own settings: typed defaults over the ``CHOREOGRAPHY`` dictionary of the Django settings."""

from dataclasses import dataclass, fields
from datetime import timedelta
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import quote

from django.conf import settings
from django.core.exceptions import ImproperlyConfigured
from django.core.signals import setting_changed

#: Characters of a subject, at most. A subject is whatever a flow is about: the UUID of an order, or any other name.
SUBJECT_LENGTH = 200


@dataclass(frozen=True)
class Conf:
    """Every setting with its default. ``CHOREOGRAPHY = {"RETRY_RUNGS": (1, 5)}`` sets ``retry_rungs``."""

    services: tuple[str, ...] = ()
    """App labels of the services this process knows."""
    broker_url: str = ""
    """amqp://user:password@host:port/vhost, or embedded:///path/to/file.sqlite3. Default: a file in ``data_dir``."""
    namespace: str = ""
    """Put before every name on the broker, so that several installations can share one."""
    data_dir: Path = Path("var")
    """Folder for signs of life, lock files and the embedded broker. Default: ``var`` in ``BASE_DIR``."""
    contracts_dir: Path = Path("contracts")
    """Folder of the committed contracts. Default: ``contracts`` in ``BASE_DIR``."""
    rabbitmq_management_url: str = ""
    """http://user:password@host:15672, so that the doctor can see bindings. Empty: it does not look."""
    retry_rungs: tuple[int, ...] = (1, 5, 30, 300)
    """The rungs of the retry ladder, in seconds, rising. Each is a queue per service."""
    max_attempts: int = 10
    """Transient faults: counted attempts before a delivery is parked."""
    max_attempts_of_a_bug: int = 3
    """Any unexpected exception: attempts before a delivery is parked."""
    max_age: timedelta = timedelta(days=1)
    """Transient faults: a delivery is parked when its first attempt is this long ago."""
    max_wait: timedelta = timedelta(minutes=10)
    """A delivery that waits for another event is parked after this."""
    lost_retry_after: timedelta = timedelta(minutes=1)
    """A delivery that is not back from the ladder this long after it was due is published again."""
    max_body_bytes: int = 256 * 1024
    """A larger event can't be announced, and a larger message is parked unread."""
    max_header_bytes: int = 32 * 1024
    """A message with larger headers is parked unread: with the history of its retries they must fit into one frame."""
    delivery_limit: int = 20
    """Deliveries without an acknowledgement (a worker died each time) before the broker dead-letters the message."""
    reports: tuple[str, ...] = ()
    """Of these services, those in this process announce what became of each of their deliveries, for a journal."""
    account_ages: tuple[timedelta, ...] = (timedelta(minutes=10), timedelta(days=1))
    """Services that report account for each hour so long after its end, for a journal to compare."""
    max_hops: int = 50
    """An event that so many reactions led to, one after the other, is parked: they go round in a circle."""
    max_repetitions: int = 100
    """A delivery is parked whose reaction would announce an event about one subject more often than this."""
    batch_size: int = 100
    """Deliveries a worker handles in one transaction, at most."""
    call_budget: timedelta = timedelta(seconds=0.5)
    """A batch begins calls to external systems for this long."""
    calls_at_once: int = 8
    """A batch makes so many calls to an external system side by side, at most."""
    relay_batch: int = 500
    """Events the relay publishes in one transaction, at most."""
    events_per_message: int = 50
    """Events that wait together share a message, so many at most. With 1 each has a message of its own."""
    sent_alone: tuple[str, ...] = ()
    """Event types of which each event has a message of its own: a reader elsewhere does not take batches."""
    confirm_timeout: float = 10.0
    """Seconds the broker has to confirm what was published."""
    keep_outbox: timedelta = timedelta(days=30)
    """Published outbox rows are kept this long, for people to look at."""
    keep_inbox: timedelta = timedelta(days=90)
    """Inbox rows are kept this long. A duplicate that comes later is handled again."""
    purge_seconds: float = 3600.0
    """Seconds between two purges of old outbox and inbox rows."""
    redrive_seconds: float = 1.0
    """Seconds between two steps of the redrives under way."""
    lost_retries_seconds: float = 5.0
    """Seconds between two looks for deliveries that are not back from the ladder."""
    accounts_seconds: float = 300.0
    """Seconds between two looks for hours that are to be accounted for."""


@cache
def conf() -> Conf:
    """The settings in force.

    Raises:
        ImproperlyConfigured: ``CHOREOGRAPHY`` has a name this page does not know.
    """
    given: dict[str, Any] = {name.lower(): value for name, value in getattr(settings, "CHOREOGRAPHY", {}).items()}
    unknown = given.keys() - {field.name for field in fields(Conf)}
    if unknown:
        known = ", ".join(field.name.upper() for field in fields(Conf))
        raise ImproperlyConfigured(
            f"CHOREOGRAPHY has unknown settings {', '.join(sorted(unknown)).upper()}. Known are {known}."
        )
    base = Path(getattr(settings, "BASE_DIR", "")).absolute()
    given["services"] = tuple(given.get("services", ()))
    given["sent_alone"] = tuple(given.get("sent_alone", ()))
    given["reports"] = tuple(given.get("reports", ()))
    given["data_dir"] = base / given.get("data_dir", Conf.data_dir)
    given["contracts_dir"] = base / given.get("contracts_dir", Conf.contracts_dir)
    given["broker_url"] = given.get("broker_url") or f"embedded://{quote(str(given['data_dir'] / 'broker.sqlite3'))}"
    return Conf(**given)


# Only tests change settings while running.
setting_changed.connect(lambda **_: conf.cache_clear(), weak=False)
