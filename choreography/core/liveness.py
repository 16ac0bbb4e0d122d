"""Signs of life: a process touches a file now and then, and ``manage.py alive NAME`` checks how old it is."""

import time
from pathlib import Path

from choreography.core.conf import conf


def show(name: str) -> None:
    """Show that the process ``name`` (``relay-orders``) is alive."""
    path = _path(name)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()


def age(name: str) -> float | None:
    """Seconds since the last sign of life, ``None`` if there never was one."""
    try:
        return time.time() - _path(name).stat().st_mtime
    except FileNotFoundError:
        return None


def forget(name: str) -> None:
    """Remove the sign: the process has ended in good order, or is about to be started."""
    _path(name).unlink(missing_ok=True)


def _path(name: str) -> Path:
    return conf().data_dir / "run" / f"{name}.alive"
