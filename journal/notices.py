"""Tell people of new marks: by mail, and by a call of a webhook, once for each flow and kind."""

import json
import urllib.request
from collections.abc import Callable, Sequence

import structlog
from django.conf import settings
from django.core.mail import send_mail
from django.utils.translation import gettext as _
from django.utils.translation import ngettext

from choreography.core import clock
from choreography.core.errors import describe
from journal.history import number_of
from journal.models import MarkOfFlow

log = structlog.get_logger(__name__)

#: Marks told of at once; and of those, so many are named.
_AT_ONCE, _NAMED = 1000, 20
#: Seconds the webhook has to answer.
_TIMEOUT = 5


def tell_people() -> None:
    """Send one mail, and make one call, about all new marks.

    They are marked as told of afterwards: should the process die in between, people are told twice. Where one of the
    two fails, it alone is tried again at the next tick.
    """
    _tell("mailed_at", _send_mail if settings.JOURNAL_MAIL_TO else None)
    _tell("called_at", _call if settings.JOURNAL_WEBHOOK_URL else None)


def _tell(field: str, tell: Callable[[Sequence[MarkOfFlow]], None] | None) -> None:
    new = MarkOfFlow.objects.filter(**{field: None}).order_by("since")
    if tell is None:  # what is new while nobody wants to be told is old news to who wants to later
        new.update(**{field: clock.now()})
        return
    marks = [*new[:_AT_ONCE]]
    standing = [mark for mark in marks if mark.cleared_at is None]
    if standing:
        try:
            tell(standing)
        except OSError as error:  # those of mail and of HTTP are
            log.error("people not told of marks", by=field, marks=len(standing), error=describe(error))
            return
        log.info("people told of marks", by=field, marks=len(standing))
    MarkOfFlow.objects.filter(pk__in=[mark.pk for mark in marks]).update(**{field: clock.now()})


def _send_mail(marks: Sequence[MarkOfFlow]) -> None:
    send_mail(_subject(marks), _text(marks), None, settings.JOURNAL_MAIL_TO)


def _subject(marks: Sequence[MarkOfFlow]) -> str:
    return ngettext("%d flow is overdue", "%d flows are overdue", len(marks)) % len(marks)


def _text(marks: Sequence[MarkOfFlow]) -> str:
    lines = [f"{number_of(mark.flow)}  {mark.kind}: {mark.what}. {mark.remedy}" for mark in marks[:_NAMED]]
    if len(marks) > _NAMED:
        lines.append(_("... and %d more") % (len(marks) - _NAMED))
    return "\n".join(lines)


def _call(marks: Sequence[MarkOfFlow]) -> None:
    body = [
        {"flow": mark.flow, "kind": mark.kind, "what": mark.what, "culprit": mark.culprit, "remedy": mark.remedy}
        for mark in marks
    ]
    request = urllib.request.Request(  # noqa: S310 (an operator's own setting)
        settings.JOURNAL_WEBHOOK_URL,
        data=json.dumps({"marks": body}).encode(),
        headers={"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=_TIMEOUT):  # noqa: S310
        pass
