"""Celery's remote control (``celery control``, Flower's buttons), where it would break a promise.

Revoking is dealt with in ``requests``. What every command does to the promises: docs/operations.md.
"""

from typing import Any

from celery.worker.control import Panel, control_command, nok  # type: ignore[attr-defined]  # the stubs lack it

from choreography.worker.tasks import DeliveryTask

_celerys_rate_limit = Panel.data["rate_limit"]


@control_command(name="rate_limit", args=[("task_name", str), ("rate_limit", str)])
def rate_limit(state: Any, task_name: str, rate_limit: str, **kwargs: Any) -> Any:
    """Refuse a rate limit for a reaction.

    What waits for its time would keep its place in the worker, and the rest of the service would wait with it.
    """
    if isinstance(state.app.tasks.get(task_name), DeliveryTask):
        return nok(
            f"{task_name} is a reaction and has no rate limit. Start the worker with less concurrency, or stop it for "
            "a while: its messages wait in the queue."
        )
    return _celerys_rate_limit(state, task_name, rate_limit, **kwargs)
