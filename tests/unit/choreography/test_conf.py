"""The machinery's settings: defaults, and no misspelt name goes unnoticed."""

import pytest
from django.core.exceptions import ImproperlyConfigured
from pytest_django.fixtures import Settings

from choreography.core.conf import Conf, conf


def test_without_settings_the_defaults_hold(settings: Settings) -> None:
    del settings.CHOREOGRAPHY
    assert conf() == Conf()


def test_a_setting_replaces_its_default(settings: Settings) -> None:
    settings.CHOREOGRAPHY = {"RETRY_RUNGS": (2, 4), "NAMESPACE": "test."}
    assert conf() == Conf(retry_rungs=(2, 4), namespace="test.")


def test_an_unknown_setting_is_refused_and_the_known_ones_are_named(settings: Settings) -> None:
    settings.CHOREOGRAPHY = {"RETRY_TIER": (1,), "MAX_AGE": None, "COLOUR": "red"}
    with pytest.raises(ImproperlyConfigured, match=r"unknown settings COLOUR, RETRY_TIER\. Known are .*RETRY_RUNGS"):
        conf()
