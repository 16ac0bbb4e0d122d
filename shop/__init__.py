"""The composition root: settings, the Celery app, the web entry points, and the commands that run the processes.

It imports every service; no other package imports it.
"""
