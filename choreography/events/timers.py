"""Time acts too: ``@every("TRACK_PARCELS_SECONDS")`` has Celery beat run a function of a service at an interval."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

import structlog
from django.conf import settings

from choreography.core.errors import ContractError, Transient
from choreography.events.registry import service_of

log = structlog.get_logger(__name__)

Item = TypeVar("Item")


@dataclass(frozen=True)
class Timer:
    """A function that runs in its service's worker at a fixed interval."""

    service: str
    function: Callable[[], None]
    setting: str
    """The setting that holds the interval, as a person would write it."""
    interval: Callable[[], float]
    """Gives the interval in seconds."""

    @property
    def name(self) -> str:
        """``shipping.track_parcels``: the name of the Celery task."""
        return f"{self.service}.{self.function.__name__}"

    @property
    def seconds(self) -> float:
        return float(self.interval())


_timers: dict[str, Timer] = {}


def timers() -> list[Timer]:
    """All timers of this process."""
    return list(_timers.values())


def register(timer: Timer) -> None:
    """Add a timer.

    Raises:
        ContractError: the service has a timer of that name already.
    """
    if timer.name in _timers:
        raise ContractError(f"there are two timers named {timer.name}: rename one")
    _timers[timer.name] = timer


def every(setting: str) -> Callable[[Callable[[], None]], Callable[[], None]]:
    """Run the function below every so many seconds, as ``settings.<setting>`` says.

    A tick may come late or not at all, and is skipped while the one before still runs; the function looks for what is
    due and does it.

    Raises:
        ContractError: the service has a timer of that name already.
    """

    def decorate(function: Callable[[], None]) -> Callable[[], None]:
        register(Timer(service_of(function), function, setting, partial(getattr, settings, setting)))
        return function

    return decorate


def for_each(items: Iterable[Item], do: Callable[[Item], None]) -> None:
    """What a tick does to each item that is due: the fault of one does not keep the others from being handled.

    A transient fault is left to the next tick.

    Raises:
        ExceptionGroup: the other faults, after every item was handled.
    """
    faults = []
    for item in items:
        try:
            do(item)
        except Transient as error:
            log.warning("postponed", about=str(item), error=type(error).__name__)
        except Exception as error:
            faults.append(error)
    if faults:
        raise ExceptionGroup(f"{len(faults)} of the items that were due failed", faults)
