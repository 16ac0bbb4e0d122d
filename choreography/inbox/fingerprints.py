"""What dead letters that fail in the same way have in common: the reaction, the error's class, and its location.

The location is the innermost function of a service that the error passed through, without a line number, so that it
survives edits elsewhere in the file. The error's message is left out: it names ids.
"""

import hashlib
import traceback
from pathlib import Path

from django.apps import apps

from choreography.core.conf import conf


def fingerprint(reaction: str, error: str, location: str) -> str:
    """Twelve hexadecimal digits. An empty ``reaction`` stands for messages nobody could read."""
    return hashlib.sha256("\0".join((reaction, error, location)).encode()).hexdigest()[:12]


def location_of(error: Exception) -> str:
    """The innermost function of a service that an error passed through: ``payments.services:_ask``, or ``""``.

    Frames of this package and of libraries do not count, wherever they are installed.
    """
    services = [(Path(app.path), app.name) for app in apps.get_app_configs() if app.label in conf().services]
    location = ""
    for frame, _ in traceback.walk_tb(error.__traceback__):
        path = Path(frame.f_code.co_filename)
        for folder, package in services:
            if path.is_relative_to(folder):
                module = ".".join((package, *path.relative_to(folder).with_suffix("").parts))
                location = f"{module}:{frame.f_code.co_name}"
    return location
