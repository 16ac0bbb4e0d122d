"""``JOURNAL_TRACES`` in the web process. That spans arrive: ``tests/acceptance/test_journal.py``."""

import sys

import pytest
from django.core.exceptions import ImproperlyConfigured

from shop.tracing import trace_requests


def test_what_is_not_installed_is_named_with_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry.instrumentation.django", None)

    with pytest.raises(ImproperlyConfigured, match=r"opentelemetry.*pip install -r requirements-otel.txt"):
        trace_requests()
