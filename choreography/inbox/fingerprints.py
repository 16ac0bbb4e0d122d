"""What letters that fail in the same way have in common: the reaction, the error's class, and the place in our code.

The place has no line number, so that it survives edits elsewhere in the file, and the fingerprint leaves the message
out, which names ids.
"""

import hashlib
import re
import traceback
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from django.conf import settings
from django.db.models import F

from choreography.core.conf import conf

#: A frame as a traceback prints it.
_FRAME = re.compile(r'^ +File "([^"\n]+)", line \d+, in (\S+)$', re.MULTILINE)


def fingerprint(reaction: str, error: str, place: str) -> str:
    """Twelve hexadecimal digits. An empty ``reaction`` stands for messages nobody could read."""
    return hashlib.sha256("\0".join((reaction, error, place)).encode()).hexdigest()[:12]


def place_of(error: Exception) -> str:
    """Where an error was raised, as far in as our own code goes: ``payments.services:_ask``, or ``""``."""
    frames = (frame.f_code for frame, _ in traceback.walk_tb(error.__traceback__))
    return _innermost((code.co_filename, code.co_name) for code in frames)


def place_in(text: str) -> str:
    """The same, from a traceback as it was printed."""
    return _innermost(_FRAME.findall(text))


def _innermost(frames: Iterable[tuple[str, str]]) -> str:
    """The last of (file, function) that lies in the machinery or in a service."""
    own = ("choreography", *conf().services)
    place = ""
    for file, function in frames:
        path = Path(file)
        if path.is_relative_to(settings.BASE_DIR):
            module = path.relative_to(settings.BASE_DIR).with_suffix("").parts
            if module[0] in own:
                place = f"{'.'.join(module)}:{function}"
    return place


def fill_in(service: str) -> Callable[[Any, Any], None]:
    """The step of a migration that gives letters parked before there were fingerprints what later ones have."""

    def step(apps: Any, schema_editor: Any) -> None:
        letters = apps.get_model(service, "DeadLetter").objects.using(schema_editor.connection.alias)
        letters.update(first_parked_at=F("parked_at"))
        letters.filter(state="retrying").update(sent_at=F("parked_at"))
        for letter in letters.only("reaction", "error", "traceback").iterator():
            place = place_in(letter.traceback)
            letters.filter(pk=letter.pk).update(
                place=place, fingerprint=fingerprint(letter.reaction, letter.error, place)
            )

    return step
