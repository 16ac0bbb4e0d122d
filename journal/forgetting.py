"""Forget a person: what contracts mark as personal goes from the journal, from outboxes and from settled dead letters.

The shape of the flows stays: which event came when, and what became of it. What is still needed to finish work stays
too, and is counted: events that are not published yet, and dead letters that may still be sent again.
"""

import json
from dataclasses import dataclass
from typing import Any

from django.db import transaction

from choreography.core.conf import conf
from choreography.events.personal import masked
from choreography.storage.tables import ServiceTables
from journal.models import ALIAS, Entry, Keyword

#: Rows changed in one transaction.
_ROWS = 500


@dataclass
class Forgotten:
    """What was done, and what was left."""

    flows: int = 0
    entries: int = 0
    outbox: int = 0
    dead_letters: int = 0
    left: int = 0
    """Rows that still hold it, because work depends on them: run it again when that is done."""


def forget(word: str) -> Forgotten:
    """Forget the person whose e-mail address, or other personal keyword, this is. May be repeated.

    Returns:
        What was done. Only the services of this process are reached.
    """
    keywords = Keyword.objects.filter(word=word.strip().lower(), is_personal=True)
    flows = sorted(set(keywords.values_list("flow", flat=True)))
    done = Forgotten(flows=len(flows))
    for first in range(0, len(flows), _ROWS):
        some = flows[first : first + _ROWS]
        subjects = set(some)
        with transaction.atomic(using=ALIAS):
            for entry in Entry.objects.filter(flow__in=some):
                subjects.add(entry.subject)
                data = json.loads(entry.body)
                if (without := masked(entry.type, data)) != data:
                    entry.body = json.dumps(without)
                    entry.save(update_fields=["body"])
                    done.entries += 1
        for service in conf().services:
            _forget_in(service, subjects, done)
    if not done.left:
        Keyword.objects.filter(flow__in=flows, is_personal=True).delete()
    return done


def _forget_in(service: str, subjects: set[str], done: Forgotten) -> None:
    tables: Any = ServiceTables(service)
    with transaction.atomic(using=tables.alias):
        for row in tables.outbox.filter(subject__in=subjects):
            body = _masked_envelope(row.event_type, row.body)
            if body == row.body:
                continue
            if row.published_at is None:
                done.left += 1
                continue
            row.body = body
            row.save(using=tables.alias, update_fields=["body"])
            done.outbox += 1
        states = tables.dead_letters.model.State
        for dead_letter in tables.dead_letters.filter(subject__in=subjects):
            text = bytes(dead_letter.body).decode(errors="replace")
            body = _masked_envelope(dead_letter.event_type, text)
            if body == text:
                continue
            if dead_letter.state in (states.PARKED, states.RETRYING):
                done.left += 1
                continue
            dead_letter.body = body.encode()
            dead_letter.save(using=tables.alias, update_fields=["body"])
            tables.actions.filter(dead_letter=dead_letter).update(old_body=None, new_body=None)
            done.dead_letters += 1


def _masked_envelope(event_type: str, body: str) -> str:
    """An event as it was published, with what is personal masked; unchanged if it can't be read."""
    try:
        envelope: Any = json.loads(body)
    except ValueError:
        return body
    if not isinstance(envelope, dict) or "data" not in envelope:
        return body
    data = masked(event_type, envelope["data"])
    return body if data == envelope["data"] else json.dumps(envelope | {"data": data})
