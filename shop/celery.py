"""The Celery app. ``celery -A shop worker|beat|flower`` finds it here; ``shop.apps`` fills it."""

import logging.config
import os
from typing import Any

from celery import Celery, signals
from django.conf import settings

from choreography import embedded

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "shop.settings")
embedded.register()

app = Celery("shop")
#: Beat reads this before Django, and with it ``install``, has been loaded.
app.conf.beat_scheduler = "choreography.worker:LivingScheduler"


@signals.setup_logging.connect
def _log_as_django_does(**kwargs: Any) -> None:
    """Being connected is what keeps Celery from setting up logging of its own."""
    logging.config.dictConfig(settings.LOGGING)
