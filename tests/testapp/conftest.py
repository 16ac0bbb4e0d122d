"""Collect the tests of the small project only in a run with its own settings (see ``tests/package``)."""

from django.conf import settings

collect_ignore = [] if settings.SETTINGS_MODULE == "tests.testapp.settings" else ["tests"]
