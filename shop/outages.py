"""What a person sees while a database is down, or lacks migrations."""

from collections.abc import Callable

import structlog
from django.db import DatabaseError, InterfaceError
from django.http import HttpRequest, HttpResponse
from django.template.loader import get_template

from choreography.core.classification import is_database_down
from choreography.core.errors import one_line

log = structlog.get_logger(__name__)

#: Seconds after which a program may try again.
_RETRY_AFTER = 5


class OutageMiddleware:
    """Answers with 503 and a page that says what to do. Everything else that goes wrong stays a 500.

    It comes directly after the one that knows who the person is, and asks it: so that no other middleware is the first
    to find that the database is down, for Django hands us what a view raises and not what they do.
    """

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponse]) -> None:
        self._get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        try:
            request.user.is_authenticated  # noqa: B018 (reads session and account)
        except (DatabaseError, InterfaceError) as error:
            if page := self.process_exception(request, error):
                return page
            raise
        return self._get_response(request)

    def process_exception(self, request: HttpRequest, error: Exception) -> HttpResponse | None:
        if not is_database_down(error):
            return None
        log.warning("page not shown", path=request.path, detail=one_line(error))
        # Without what other pages show of the person: that is in a database.
        page = get_template("shop/outage.html").render()
        return HttpResponse(page, status=503, headers={"Retry-After": str(_RETRY_AFTER)})
