"""Tell people of new marks: by mail, and by a call of a webhook, once for each flow and kind."""

import json
import urllib.request
from collections.abc import Sequence

import structlog
from django.conf import settings
from django.core.mail import send_mail
from django.utils.translation import gettext as _
from django.utils.translation import ngettext

from choreography.core import clock
from journal.history import number_of
from journal.models import MarkOfFlow

log = structlog.get_logger(__name__)

#: Marks told of at once; and of those, so many are named.
_AT_ONCE, _NAMED = 1000, 20
#: Seconds the webhook has to answer.
_TIMEOUT = 5


def tell_people() -> int:
    """Send one mail, and make one call, about all new marks. Returns how many marks.

    They are marked as told of afterwards: should the process die in between, people are told twice.
    """
    if not (settings.JOURNAL_MAIL_TO or settings.JOURNAL_WEBHOOK_URL):
        return 0
    new = MarkOfFlow.objects.filter(notified_at=None).order_by("since")
    marks = [*new[:_AT_ONCE]]
    if not marks:
        return 0
    standing = [mark for mark in marks if mark.cleared_at is None]
    if standing:
        if settings.JOURNAL_MAIL_TO:
            send_mail(_subject(standing), _text(standing), None, settings.JOURNAL_MAIL_TO)
        if settings.JOURNAL_WEBHOOK_URL:
            _call(standing)
        log.info("people told of marks", marks=len(standing))
    told = MarkOfFlow.objects.filter(pk__in=[mark.pk for mark in marks])
    told.update(notified_at=clock.now())
    return len(standing)


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
