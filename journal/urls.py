"""URLs of the journal's pages, included by the project."""

from django.urls import path, register_converter
from django.urls.converters import StringConverter

from journal import views


class AnyText(StringConverter):
    """The name of a flow: the subject of its first event, which may have slashes and line breaks."""

    regex = r"[\s\S]+"


register_converter(AnyText, "any")

urlpatterns = [
    path("flows/", views.flows, name="flows"),
    path("flows.csv", views.flows_csv, name="flows_csv"),
    path("flows/dead-letters/<str:service>/<str:event_id>/", views.dead_letters_of, name="dead_letters_of"),
    path("reconciliation/", views.reconciliation, name="reconciliation"),
    path("latency/", views.latency, name="latency"),
    path("flows/<any:flow>.json", views.flow_json, name="flow_json"),
    path("flows/<any:flow>.svg", views.flow_svg, name="flow_svg"),
    path("flows/<any:flow>/", views.flow, name="flow"),
]
