"""URLs of the journal's pages, included by the project."""

from django.urls import path

from journal import views

urlpatterns = [
    path("flows/", views.flows, name="flows"),
    path("flows.csv", views.flows_csv, name="flows_csv"),
    path("flows/dead-letters/<str:service>/<str:event_id>/", views.dead_letters_of, name="dead_letters_of"),
    path("reconciliation/", views.reconciliation, name="reconciliation"),
    path("latency/", views.latency, name="latency"),
    path("flows/<path:flow>.json", views.flow_json, name="flow_json"),
    path("flows/<path:flow>.svg", views.flow_svg, name="flow_svg"),
    path("flows/<path:flow>/", views.flow, name="flow"),
]
