"""Which processes of the embedded broker are alive."""

import fcntl
import os
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path


class Processes:
    """Each process holds a lock on a file of its own in ``folder``. At its death the kernel frees it.

    flock, because a POSIX record lock is lost as soon as any descriptor of the file is closed, and
    can't tell two stores of one process apart. But forked children share a flock: each closes its
    copy (``forget``), or it would keep its dead parent alive.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._name = ""
        self._lock: int | None = None

    def me(self) -> str:
        if self._lock is None:
            self._name = uuid.uuid4().hex
            hidden = self._folder / f".{self._name}"  # from the others, until it is locked
            self._lock = self._locked(hidden)
            hidden.rename(self._folder / self._name)
        return self._name

    def dead(self, named: Iterable[str]) -> set[str]:
        """Those of ``named``, and of those who left a file, who don't live."""
        files = {file.name for file in self._folder.iterdir() if not file.name.startswith(".")}
        return {name for name in files | set(named) if name != self._name and self._is_dead(name)}

    def bury(self, dead: Iterable[str]) -> None:
        for name in dead:
            (self._folder / name).unlink(missing_ok=True)

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Nobody else is inside meanwhile."""
        lock = self._locked(self._folder / ".alone")
        try:
            yield
        finally:
            os.close(lock)

    def forget(self) -> None:
        if self._lock is not None:
            os.close(self._lock)
        self._name, self._lock = "", None

    def leave(self) -> None:
        self.bury({self._name} - {""})
        self.forget()

    def _locked(self, file: Path) -> int:
        self._folder.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(file, os.O_CREAT | os.O_RDWR, 0o600)
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        return descriptor

    def _is_dead(self, name: str) -> bool:
        try:
            descriptor = os.open(self._folder / name, os.O_RDWR)
        except FileNotFoundError:
            return True
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        else:
            return True
        finally:
            os.close(descriptor)
