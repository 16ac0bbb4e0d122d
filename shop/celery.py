"""The Celery app. ``celery -A shop worker|beat|flower`` finds it here; ``shop.apps`` fills it."""

import logging.config
import os
import sys
from typing import Any

import django
from celery import Celery, signals
from django.apps import apps
from django.conf import settings
from django.core.exceptions import ImproperlyConfigured

from choreography.broker import transports

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "shop.settings")
transports.register()

app = Celery("shop")


@signals.setup_logging.connect
def _use_django_logging(**kwargs: Any) -> None:
    """Configure logging as Django does. Celery sets up no logging of its own if this signal has a receiver."""
    logging.config.dictConfig(settings.LOGGING)


if "flower" in sys.argv:
    from shop.flower_login import slow_down

    slow_down()

if not apps.models_ready:
    # Celery sets up Django for workers only; without it ``inspect`` and ``beat`` would use Celery's default settings.
    try:
        django.setup()
    except ImproperlyConfigured as error:
        raise SystemExit(str(error)) from None
