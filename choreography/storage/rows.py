"""Rows whose primary key is the subject of a flow: what ``@reacts_to(..., rows=Payment.objects)`` expects."""

from collections.abc import Iterable
from contextlib import AbstractContextManager
from typing import Any, TypeVar

from django.core.exceptions import ValidationError
from django.db import models

from choreography.core.errors import Unusable
from choreography.storage import bulk

Row = TypeVar("Row", bound=models.Model)


class SubjectQuerySet(models.QuerySet[Row]):
    """Rows by subject, one statement for all of them: ``objects = SubjectQuerySet.as_manager()``."""

    def locked(self, subjects: Iterable[Any]) -> AbstractContextManager[list[Row]]:
        """A row for each subject, locked until the transaction ends. What the block changes is written at its end.

        See ``bulk.locked``.

        Raises:
            Unusable: a subject can't be a key of this table.
        """
        return bulk.locked(self, self._keys(subjects), missing=self.missing)

    def current(self, subjects: Iterable[Any]) -> list[Row]:
        """A row for each subject as it is now, not locked.

        Raises:
            Unusable: a subject can't be a key of this table.
        """
        keys = self._keys(subjects)
        found = bulk.find(self, keys)
        return [found.get(key) or self.missing(key) for key in keys]

    def missing(self, key: Any) -> Row:
        """The row for a key that has none: a blank one, not saved. Override it to raise an error instead."""
        return self.model(pk=key)

    def _keys(self, subjects: Iterable[Any]) -> list[Any]:
        try:
            return [self.model._meta.pk.to_python(subject) for subject in subjects]
        except ValidationError as error:
            raise Unusable(f"the subject is no key of {self.model._meta.label}") from error
