"""URLs: the home page, the admin, and the health check."""

from django.conf import settings
from django.contrib import admin
from django.templatetags.static import static
from django.urls import include, path
from django.views.generic import RedirectView

from shop import contracts_page, monitoring, views

urlpatterns = [
    path("", views.home, name="home"),
    path("reactions/", views.who_reacts, name="reactions"),
    path("contracts/", contracts_page.contracts, name="contracts"),
    path("contracts/asyncapi.json", contracts_page.asyncapi, name="asyncapi"),
    path("contracts/<str:event_type>/", contracts_page.contract, name="contract"),
    *([path("", include("journal.urls"))] if "journal" in settings.SERVICES else []),
    path("admin/", admin.site.urls),
    path("healthz", views.healthz, name="healthz"),
    path("metrics", monitoring.metrics_page, name="metrics"),
    path("health/live", monitoring.live, name="live"),
    path("health/ready", monitoring.ready, name="ready"),
    path("favicon.ico", RedirectView.as_view(url=static("shop/icon.svg"))),
]
