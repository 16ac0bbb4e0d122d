"""The web entry point: ``gunicorn shop.wsgi``."""

import os

from django.conf import settings
from django.core.wsgi import get_wsgi_application

from shop.tracing import trace_requests

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "shop.settings")

if settings.JOURNAL_TRACES:
    trace_requests()
application = get_wsgi_application()

from choreography.storage.migrations import Unmigrated, refuse_unmigrated  # noqa: E402 (the apps come first)

try:
    refuse_unmigrated()
except Unmigrated as error:
    raise SystemExit(str(error)) from None
