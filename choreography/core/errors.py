"""Every error the machinery raises or understands, as one tree.

``ChoreographyError``
    ``ContractError``      an event that breaks its own contract, or is announced by another service
    ``Unusable``           a message that can never be handled, however often it is tried
    ``NotYet``             a prerequisite has not arrived: wait, without counting a failure
    ``Conflict``           what a reaction read has changed meanwhile: run it again, now
        ``ClaimEnded``     it took longer than its claim was kept, and a copy may have been handled meanwhile
    ``PublishRefused``     the broker will never take some of the messages
    ``Transient``          a passing fault: try again later, counted
        ``Outage``         something is down: try again later, never counted
        ``PublishFailed``  the broker did not confirm
            ``Unroutable`` no queue is bound to the exchange, or the queue does not exist

A business refusal (a declined card) is no error: it is an event. Any other exception is taken for a bug.
"""

from collections.abc import Mapping


class ChoreographyError(Exception):
    """Root of the tree."""


class ContractError(ChoreographyError):
    """The publisher's own mistake: unknown event, foreign event, undeclared event, no transaction."""


class Unusable(ChoreographyError):
    """A message that no retry can help: not JSON, not CloudEvents, unknown type, missing fields, too large."""


class NotYet(ChoreographyError):
    """The reaction needs what another event brings. The delivery waits and is not a failure."""


class Conflict(ChoreographyError):
    """The state that a reaction's external call was based on has changed before its transaction began."""


class ClaimEnded(Conflict):
    """A process was stopped for so long that its claim has ended, and a copy may have been handled meanwhile."""


class Transient(ChoreographyError):
    """A fault that is likely to pass. Tried again with backoff; attempts count."""


class Outage(Transient):
    """The broker, a database or an external system is down. Tried again with backoff, without limit and uncounted."""


class PublishFailed(Transient):
    """The broker refused, returned or did not confirm a message in time."""


class Unroutable(PublishFailed):
    """No queue is bound to the exchange, or the queue does not exist."""


class PublishRefused(ChoreographyError):
    """The broker will never take some of the messages, such as one that is too large. It has confirmed the others."""

    def __init__(self, reasons: Mapping[int, str]) -> None:
        """``reasons``: why, by the position of the message among those to be published."""
        super().__init__("; ".join(sorted(set(reasons.values()))))
        self.reasons = dict(reasons)


def one_line(error: BaseException | str) -> str:
    """What an error says, or a text, on one line and without a full stop; its class if it says nothing."""
    lines = (" ".join(line.split()) for line in str(error).splitlines())
    return "; ".join(filter(None, lines)).rstrip(".?") or type(error).__name__


def describe(error: Exception) -> str:
    """What may be logged and shown of an error: the text only of our own, for others' may hold personal data."""
    name = type(error).__name__
    return f"{name}: {error}" if isinstance(error, ChoreographyError) else name
