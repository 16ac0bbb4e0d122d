"""Addresses with a NUL character, which only programs that look for weaknesses ask for."""

from collections.abc import Callable

from django.core.exceptions import BadRequest
from django.http import HttpRequest, HttpResponse


class RefuseNullCharacters:
    """Answers with 400. PostgreSQL takes no text with a NUL, so each search and filter would fail with an error.

    https://www.postgresql.org/docs/15/datatype-character.html
    """

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponse]) -> None:
        self._get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        if "\0" in request.path_info or "%00" in request.META.get("QUERY_STRING", ""):
            raise BadRequest("a NUL character in the address")
        return self._get_response(request)
