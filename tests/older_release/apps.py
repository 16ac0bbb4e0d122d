import os

from django.apps import AppConfig


class OlderReleaseConfig(AppConfig):
    name = "tests.older_release"

    def ready(self) -> None:
        from django.conf import settings

        from tests.older_release.releases import hear_both_versions, know_version_1_alone

        if os.environ["RELEASE"] == "1":
            know_version_1_alone(settings.SERVICES)
        else:
            hear_both_versions(settings.SERVICES)
