"""``manage.py test`` runs pytest. ``manage.py test payments`` runs the tests of one part."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from django.conf import settings
from pytest_django.runner import TestRunner


class PytestRunner(TestRunner):
    """pytest-django's runner; a label may also be the name of a service."""

    def run_tests(self, test_labels: Iterable[str], **kwargs: Any) -> int:
        return int(super().run_tests([path_of(label) for label in test_labels], **kwargs))


def path_of(label: str) -> str:
    """``payments`` -> ``tests/unit/payments``, else ``payments/tests.py``; any other label is a path for pytest."""
    base = Path(settings.BASE_DIR)
    for path in (base / "tests" / "unit" / label, base / label / "tests.py"):
        if path.exists():
            return str(path)
    return label
