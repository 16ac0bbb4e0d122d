"""The external systems a service calls: how to reach one, how to tell that it is down, and a way to call nothing.

A service declares each one once, beside its protocol (``payments/gateway.py``)::

    gateway = ExternalSystem[Gateway](
        "payment gateway", "PAYMENT_GATEWAY", reads={"find"}, probe=lambda client: client.find("probe")
    )

and uses ``gateway()`` wherever it calls it. A reaction names the system it calls,
``@reacts_to(..., ask=..., external_system=gateway)``, so that its worker can pause while the system is down.
"""

from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import partial
from typing import Any, Generic, TypeVar, cast

from django.conf import settings
from django.core.signals import setting_changed
from django.utils.module_loading import import_string

from choreography.core.errors import ChoreographyError

Client = TypeVar("Client")

_calls_are_refused: ContextVar[bool] = ContextVar("calls_are_refused", default=False)


class WouldCall(ChoreographyError):
    """Raised instead of calling, inside ``refusing_calls``: what would have been called, and with what."""

    def __init__(self, system: str, method: str, arguments: dict[str, Any]) -> None:
        super().__init__(f"would call {method} of the {system}")
        self.system, self.method, self.arguments = system, method, arguments


class ExternalSystem(Generic[Client]):
    """One external system. Calling it gives the client, made once per process from the class the setting names."""

    def __init__(self, name: str, setting: str, *, reads: Collection[str], probe: Callable[[Client], object]) -> None:
        """``reads`` names the client's methods that change nothing; ``probe`` calls one, to see whether it answers."""
        self.name = name
        self._setting = setting
        self._reads = frozenset(reads)
        self._probe = probe
        self._client: Client | None = None
        # Only tests change settings while running; a client made from the old ones must not outlive them.
        setting_changed.connect(self._forget)

    def __call__(self) -> Client:
        """The client. Inside ``refusing_calls`` one whose every method but those that read raises ``WouldCall``."""
        if self._client is None:
            self._client = cast(Client, import_string(getattr(settings, self._setting))())
        if _calls_are_refused.get():
            return cast(Client, _ReadOnlyClient(self.name, self._client, self._reads))
        return self._client

    def fault(self) -> str | None:
        """Why there can be no client: the setting names nothing that can be imported. ``None``: it does."""
        path = getattr(settings, self._setting, None)
        try:
            import_string(str(path))
        except Exception as error:  # whatever the module raises while it is imported
            return f"{self._setting} is {path!r}, which can't be imported: {type(error).__name__}: {error}"
        return None

    def probe(self) -> None:
        """Call something harmless.

        Raises:
            Outage: the system can't be reached.
        """
        self._probe(self())

    def _forget(self, **_: Any) -> None:
        self._client = None


@contextmanager
def refusing_calls() -> Iterator[None]:
    """No external system is called to do anything: that raises ``WouldCall`` instead. For dry runs."""
    token = _calls_are_refused.set(True)
    try:
        yield
    finally:
        _calls_are_refused.reset(token)


class _ReadOnlyClient:
    """A client that can be read, and refuses everything else."""

    def __init__(self, system: str, client: Any, reads: frozenset[str]) -> None:
        self._system, self._client, self._reads = system, client, reads

    def __getattr__(self, name: str) -> Any:
        return getattr(self._client, name) if name in self._reads else partial(self._refuse, name)

    def _refuse(self, method: str, **arguments: Any) -> None:
        raise WouldCall(self._system, method, arguments)
