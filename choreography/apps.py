"""Find every service's events, reactions and timers when Django starts, and the checks that guard them."""

from django.apps import AppConfig
from django.utils.module_loading import autodiscover_modules


class ChoreographyConfig(AppConfig):
    name = "choreography"
    verbose_name = "Choreography"

    def ready(self) -> None:
        from django.db.backends.signals import connection_created
        from django.db.models.signals import post_migrate

        from choreography.broker import decoding
        from choreography.core import logs
        from choreography.core.conf import conf
        from choreography.events.accounts import define_accounts
        from choreography.events.reports import define_reports
        from choreography.operations import (
            checks,  # noqa: F401  (registers them)
            maintenance,
        )
        from choreography.storage.database_clock import take_time
        from choreography.storage.vacuum import configure_vacuum

        logs.configure()
        decoding.install()
        define_reports()
        define_accounts()
        autodiscover_modules("events", "reactions", "timers", "accounts")
        for service in conf().services:
            maintenance.register_timers(service)
        post_migrate.connect(configure_vacuum)
        connection_created.connect(take_time)
