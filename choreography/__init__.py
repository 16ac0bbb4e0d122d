"""Choreography for Django: services that announce facts and react to the facts of others.

All that a service needs, on one page. What to read, in the order in which an event lives:

``events``        event classes, who reacts to what, timers, external systems, the contract gate
``outbox``        announce a fact in the transaction that makes it true; the relay that publishes it
``broker``        publishing with confirmation, the exchanges and queues, a broker in a file
``worker``        a message becomes a task of a Celery worker
``inbox``         one delivery's whole life: done, retried later, or parked
``dead_letters``  what was parked: redrive, edit, discard, dry run
``storage``       the tables of a service, and the statements on them
``admin``         admin pages for those tables
``operations``    checks at startup, the doctor for a running installation
``testing``       all of it in one process, with a broker and a clock of its own
``simulation``    histories in which everything goes wrong, for a project's own reactions
``management``    commands: ``startservice``, ``relay``, ``dead_letters`` ...
``core``          settings, errors, the clock
"""

from choreography.core.errors import (
    ChoreographyError,
    Conflict,
    ContractError,
    NotYet,
    Outage,
    PublishFailed,
    PublishRefused,
    Transient,
    Unroutable,
    Unusable,
)
from choreography.events.accounts import Happened, accounts_for
from choreography.events.expectations import compensates, ends_flow, expect, never_both
from choreography.events.external_systems import ExternalSystem
from choreography.events.messages import PERSONAL, SEARCHABLE, Announced, Event, Heard, Moment, Nothing
from choreography.events.registry import reacts_to
from choreography.events.timers import every, for_each
from choreography.events.versions import downcasts, upcasts
from choreography.outbox.announcing import announce, transaction_of

__all__ = [
    "PERSONAL",
    "SEARCHABLE",
    "Announced",
    "ChoreographyError",
    "Conflict",
    "ContractError",
    "Event",
    "ExternalSystem",
    "Happened",
    "Heard",
    "Moment",
    "NotYet",
    "Nothing",
    "Outage",
    "PublishFailed",
    "PublishRefused",
    "Transient",
    "Unroutable",
    "Unusable",
    "accounts_for",
    "announce",
    "compensates",
    "downcasts",
    "ends_flow",
    "every",
    "expect",
    "for_each",
    "never_both",
    "reacts_to",
    "transaction_of",
    "upcasts",
]
