"""Celery at the edge: messages become tasks, tasks become acknowledgements."""
