"""The companies outside that a service asks: who answers, how to tell that nobody does, and a way only to look.

A service declares each one once, beside its protocol (``payments/gateway.py``)::

    gateway = Host[Gateway]("payment gateway", "PAYMENT_GATEWAY", reads={"find"}, probe=lambda it: it.find("probe"))

and calls ``gateway()`` wherever it talks to it. A reaction names the host it asks, ``@reacts_to(..., host=gateway)``,
so that its worker can hold back while the host is down.
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

_only_looking: ContextVar[bool] = ContextVar("only_looking", default=False)


class WouldAsk(ChoreographyError):
    """Raised instead of asking, where only looking is allowed: what would have been asked, and of whom."""

    def __init__(self, host: str, question: str, details: dict[str, Any]) -> None:
        super().__init__(f"would ask the {host} to {question}")
        self.host, self.question, self.details = host, question, details


class Host(Generic[Client]):
    """One company outside. Calling it gives the client, made once per process from the class the setting names."""

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
        """The client. Inside ``only_looking`` one whose every method but those that read raises ``WouldAsk``."""
        if self._client is None:
            self._client = cast(Client, import_string(getattr(settings, self._setting))())
        return cast(Client, _Looking(self.name, self._client, self._reads)) if _only_looking.get() else self._client

    def probe(self) -> None:
        """Ask something harmless.

        Raises:
            Outage: the host can't be reached.
        """
        self._probe(self())

    def _forget(self, **_: Any) -> None:
        self._client = None


@contextmanager
def only_looking() -> Iterator[None]:
    """Nobody outside is asked to do anything: it raises ``WouldAsk`` instead. For dry runs."""
    token = _only_looking.set(True)
    try:
        yield
    finally:
        _only_looking.reset(token)


class _Looking:
    """A client that can be asked, but not moved."""

    def __init__(self, host: str, client: Any, reads: frozenset[str]) -> None:
        self._host, self._client, self._reads = host, client, reads

    def __getattr__(self, name: str) -> Any:
        return getattr(self._client, name) if name in self._reads else partial(self._refuse, name)

    def _refuse(self, question: str, **details: Any) -> None:
        raise WouldAsk(self._host, question, details)
