"""What all of these tests start from: a shop that keeps no journal."""

import pytest
from pytest_django.fixtures import Settings

from tests.shop_in_a_box import WITHOUT_JOURNAL


@pytest.fixture(autouse=True)
def without_journal(settings: Settings) -> None:
    """The journal has tests of its own, in ``tests/journal``."""
    settings.CHOREOGRAPHY = settings.CHOREOGRAPHY | WITHOUT_JOURNAL
