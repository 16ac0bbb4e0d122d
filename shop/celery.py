"""The Celery app. ``celery -A shop worker|beat|flower`` finds it here; ``shop.apps`` fills it."""

import logging.config
import os
from typing import Any

import django
from celery import Celery, signals
from django.apps import apps
from django.conf import settings

from choreography.broker import embedded

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "shop.settings")
embedded.register()

app = Celery("shop")


@signals.setup_logging.connect
def _log_as_django_does(**kwargs: Any) -> None:
    """Being connected is what keeps Celery from setting up logging of its own."""
    logging.config.dictConfig(settings.LOGGING)


if not apps.models_ready:
    # Celery loads Django for workers only; ``inspect`` and ``beat`` would go by Celery's defaults instead of ours.
    django.setup()
