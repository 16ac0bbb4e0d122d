"""What dead letters that fail in the same way have in common: the reaction, the error's class, and its location.

The location is the innermost function of a service that the error passed through, or of this package if it passed
through none: a message that can't be read. It has no line number, so that it survives edits elsewhere in the file. The
error's message is left out: it names ids.
"""

import hashlib
import traceback
from collections.abc import Sequence
from pathlib import Path
from types import FrameType

from django.apps import apps

from choreography.core.conf import conf

_THIS_PACKAGE = (Path(__file__).parent.parent, "choreography")


def fingerprint(reaction: str, error: str, location: str) -> str:
    """Twelve hexadecimal digits. An empty ``reaction`` stands for messages nobody could read."""
    return hashlib.sha256("\0".join((reaction, error, location)).encode()).hexdigest()[:12]


def location_of(error: Exception) -> str:
    """The innermost function of a service that an error passed through: ``payments.services:_ask``.

    Functions of this package count only if there is none of a service, and those of libraries never. Where each is
    installed makes no difference. ``""`` if none counts.
    """
    services = [(Path(app.path), app.name) for app in apps.get_app_configs() if app.label in conf().services]
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    return _innermost(frames, services) or _innermost(frames, [_THIS_PACKAGE])


def _innermost(frames: Sequence[FrameType], packages: Sequence[tuple[Path, str]]) -> str:
    for frame in reversed(frames):
        path = Path(frame.f_code.co_filename)
        for folder, package in packages:
            if path.is_relative_to(folder):
                module = ".".join((package, *path.relative_to(folder).with_suffix("").parts))
                return f"{module}:{frame.f_code.co_name}"
    return ""
