"""Releases from before ``order_placed.v2``, for processes and tests of today.

With ``DJANGO_SETTINGS_MODULE=tests.older_release.settings`` and ``RELEASE=1`` a process knows version 1 alone. With
``RELEASE=2`` its readers name both versions, as a release does that is deployed before the publisher's.
"""
