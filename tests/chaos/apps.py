import os

from django.apps import AppConfig


class ChaosConfig(AppConfig):
    name = "tests.chaos"

    def ready(self) -> None:
        from tests.chaos.sabotage import SABOTAGES

        wanted = os.environ.get("SABOTAGE", "")
        if wanted:
            SABOTAGES[wanted].in_process()
