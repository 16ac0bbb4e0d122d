"""Find every service's events, reactions and timers when Django starts, and the checks that guard them."""

from django.apps import AppConfig
from django.utils.module_loading import autodiscover_modules


class ChoreographyConfig(AppConfig):
    name = "choreography"
    verbose_name = "Choreography"

    def ready(self) -> None:
        from choreography.operations import checks  # noqa: F401  (registers them)

        autodiscover_modules("events", "reactions", "timers")
