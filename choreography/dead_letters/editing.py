"""May a dead letter's message be replaced by this one?

It must still be the same event, and one that its publisher could have announced and the service can read. Where
nobody can tell what the old message was, the new one may be any event the service reacts to.
"""

import json
from typing import TYPE_CHECKING

from django.utils.translation import gettext as _

from choreography.core.conf import conf
from choreography.core.errors import ChoreographyError, Unusable
from choreography.events.compatibility import committed
from choreography.events.messages import CONTENT_TYPE, Envelope, read_envelope, read_event
from choreography.events.registry import Reaction
from choreography.events.schemas import breaches
from choreography.events.versions import reaction_of, reads

if TYPE_CHECKING:
    from jsonschema import ValidationError

#: What makes an event that event.
_IDENTITY = ("id", "type", "source", "subject")


class Refused(ChoreographyError):
    """The new message can't take the old one's place."""


def check(service: str, old: bytes, new: bytes) -> tuple[Envelope, Reaction]:
    """Tell which event the new message is, and which reaction handles it.

    Raises:
        Refused: with everything that is wrong, fields named and values left out.
    """
    try:
        envelope = read_envelope(new, CONTENT_TYPE, conf().max_body_bytes)
    except Unusable as error:
        raise Refused(_("It is no event: %s") % error) from None
    changed = _changed(old, envelope)
    if changed:
        raise Refused(_("It would be another event: %s must stay as it was.") % ", ".join(changed))
    reaction = reaction_of(service, envelope.type)
    if reaction is None:
        raise Refused(_("%(service)s has no reaction to %(type)s.") % {"service": service, "type": envelope.type})
    faults = list(_breaches(envelope.type, new))
    if faults:
        raise Refused(_("It breaks the contract of %s: ") % envelope.type + "; ".join(faults))
    try:
        read_event(new, reads(reaction, envelope.type))
    except Unusable as error:
        raise Refused(_("%(reaction)s can't read it: %(why)s") % {"reaction": reaction.name, "why": error}) from None
    return envelope, reaction


def _changed(old: bytes, new: Envelope) -> list[str]:
    try:
        before = read_envelope(old, CONTENT_TYPE, len(old))
    except Unusable:
        return []
    return [name for name in _IDENTITY if getattr(before, name) != getattr(new, name)]


def _breaches(event_type: str, body: bytes) -> list[str]:
    """Where the data is not what the publisher has promised, by its committed contract."""
    contract = committed(event_type)
    if contract is None:
        return []
    data = json.loads(body).get("data")
    return sorted(f"{fault.json_path}: {_rule(fault)}" for fault in breaches(contract, data))


def _rule(fault: "ValidationError") -> str:
    """The rule that is broken. A fault's own text would quote the data."""
    return fault.message if fault.validator == "required" else f"{fault.validator} {json.dumps(fault.validator_value)}"
