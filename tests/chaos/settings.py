"""The shop's own settings, and this package beside it: it switches a protection off where ``SABOTAGE`` says so."""

from shop.settings import *  # noqa: F403

INSTALLED_APPS = [*INSTALLED_APPS, "tests.chaos"]  # noqa: F405
