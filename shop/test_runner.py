"""``manage.py test`` runs pytest. ``manage.py test payments`` runs the tests of one part."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from django.conf import settings
from pytest_django.runner import TestRunner


class PytestRunner(TestRunner):
    """pytest-django's runner; a label may also be the name of a service."""

    def run_tests(self, test_labels: Iterable[str], **kwargs: Any) -> int:
        return int(super().run_tests([folder_of(label) for label in test_labels], **kwargs))


def folder_of(label: str) -> str:
    """``payments`` -> ``tests/unit/payments``; any other label is a path for pytest."""
    folder = Path(settings.BASE_DIR) / "tests" / "unit" / label
    return str(folder) if folder.is_dir() else label
