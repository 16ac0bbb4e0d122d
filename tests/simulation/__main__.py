"""``python -m tests.simulation``, which ``make simulate`` calls. What it takes: ``--help``."""

import os
import sys

import django

from tests.processes import SERVICES

_ALL = (*SERVICES, "journal")
#: The project as the simulation needs it: nothing of this machine's, and databases in memory.
os.environ |= {
    "DJANGO_SETTINGS_MODULE": "shop.settings",
    "DEBUG": "false",  # else Django keeps every statement
    "SECRET_KEY": "simulated",
    "LOG_LEVEL": "CRITICAL",
    "SHOP_SERVICES": ",".join(_ALL),
    "DATABASE_URL": "",
    "BROKER_URL": "",
    "CHOREOGRAPHY_NAMESPACE": "",
    **{f"{alias.upper()}_DATABASE_URL": "sqlite://:memory:" for alias in ("accounts", *_ALL)},
}

if __name__ == "__main__":
    django.setup()
    from tests.simulation.command import run  # which needs the apps

    sys.exit(run(sys.argv[1:]))
