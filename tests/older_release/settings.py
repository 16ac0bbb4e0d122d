"""The shop's own settings, and this package beside it."""

from shop.settings import *  # noqa: F403

INSTALLED_APPS = [*INSTALLED_APPS, "tests.older_release"]  # noqa: F405
