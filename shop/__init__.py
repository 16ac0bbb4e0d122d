"""The composition root: settings, the Celery app, the web entry points and the commands that run it all.

It knows every service; nothing imports it.
"""
