"""A service whose Django app, labelled ``warehouse``, is a package inside another."""

from choreography import Event, Nothing


def pack_box(event: Event[Nothing]) -> None: ...


def count_boxes() -> None: ...
