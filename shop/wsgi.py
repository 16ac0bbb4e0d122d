"""The web entry point: ``gunicorn shop.wsgi``."""

import os
import sys
from typing import NoReturn

from django.conf import settings
from django.core.exceptions import ImproperlyConfigured
from django.core.wsgi import get_wsgi_application

from shop.secrets import require_secret_key
from shop.tracing import trace_requests

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "shop.settings")

#: What tells gunicorn that a worker can't start. After any other exit code it would start another one, without end.
_CANNOT_START = 3


def _refuse_to_start(error: Exception) -> NoReturn:
    sys.stderr.write(f"{error}\n")
    raise SystemExit(_CANNOT_START)


try:
    require_secret_key()
    if settings.JOURNAL_TRACES:
        trace_requests()
    application = get_wsgi_application()
except ImproperlyConfigured as error:
    _refuse_to_start(error)

from choreography.storage.migrations import Unmigrated, refuse_unmigrated  # noqa: E402 (the apps come first)

try:
    refuse_unmigrated()
except Unmigrated as error:
    _refuse_to_start(error)
