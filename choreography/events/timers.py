"""Time acts too: ``@every("TRACK_PARCELS_SECONDS")`` has Celery beat tick a function of a service."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TypeVar

import structlog
from django.conf import settings

from choreography.core.errors import ContractError, Transient

log = structlog.get_logger(__name__)

Thing = TypeVar("Thing")


@dataclass(frozen=True)
class Timer:
    """A function that runs in its service's worker at a fixed interval."""

    service: str
    function: Callable[[], None]
    setting: str
    """The Django setting that holds the interval in seconds."""

    @property
    def name(self) -> str:
        """``shipping.track_parcels``: the name of the Celery task."""
        return f"{self.service}.{self.function.__name__}"

    @property
    def seconds(self) -> float:
        return float(getattr(settings, self.setting))


_timers: dict[str, Timer] = {}


def timers() -> list[Timer]:
    """All timers of this process."""
    return list(_timers.values())


def every(setting: str) -> Callable[[Callable[[], None]], Callable[[], None]]:
    """Run the function below every so many seconds, as ``settings.<setting>`` says.

    A tick may come late or not at all, and is skipped while the one before still runs; the function looks for what is
    due and does it.

    Raises:
        ContractError: the service has a timer of that name already.
    """

    def decorate(function: Callable[[], None]) -> Callable[[], None]:
        timer = Timer(function.__module__.partition(".")[0], function, setting)
        if timer.name in _timers:
            raise ContractError(f"there are two timers named {timer.name}: rename one")
        _timers[timer.name] = timer
        return function

    return decorate


def for_each(things: Iterable[Thing], do: Callable[[Thing], None]) -> None:
    """What a tick does to each thing that is due: no fault of one keeps the others from their turn.

    A passing fault is left to the next tick.

    Raises:
        ExceptionGroup: the other faults, after everything has had its turn.
    """
    faults = []
    for thing in things:
        try:
            do(thing)
        except Transient as error:
            log.warning("postponed", about=str(thing), error=type(error).__name__)
        except Exception as error:
            faults.append(error)
    if faults:
        raise ExceptionGroup(f"{len(faults)} of the things that were due failed", faults)
