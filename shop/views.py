"""The home page and the health check."""

from django.conf import settings
from django.db import DatabaseError, connections
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.shortcuts import render

from choreography.registry import reactions


def home(request: HttpRequest) -> HttpResponse:
    """Who reacts to what, and where to go from here."""
    return render(request, "shop/home.html", {"services": settings.SERVICES, "reactions": reactions()})


def healthz(request: HttpRequest) -> JsonResponse:
    """200 if every database of this process answers, else 503 naming those that don't."""
    down = []
    for alias in connections:
        try:
            with connections[alias].cursor() as cursor:
                cursor.execute("SELECT 1")
        except DatabaseError:
            down.append(alias)
    return JsonResponse({"databases_down": down}, status=503 if down else 200)
