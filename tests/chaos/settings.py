"""The shop's own settings, and this package beside it: it switches a protection off where ``SABOTAGE`` says so.

The ladder's last rung lasts a minute instead of five: the end of a run would wait for whoever stands there.
"""

from shop.settings import *  # noqa: F403

INSTALLED_APPS = [*INSTALLED_APPS, "tests.chaos"]  # noqa: F405
CHOREOGRAPHY = {**CHOREOGRAPHY, "RETRY_RUNGS": (1, 5, 30, 60)}  # noqa: F405
