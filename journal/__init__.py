"""Journal: the history of every flow, across all services, for people.

Owns       flows, the events that were announced in them, what became of their deliveries, and marks on flows in which
           something is missing, illegal or stalled
Announces  flow_overdue
Reacts to  every event that has a contract, and the reports of all services (``reactions.py``)

It knows services by their contracts and declarations alone, so that they may run anywhere.
"""
