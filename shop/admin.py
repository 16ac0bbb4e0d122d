"""Titles of the admin site."""

from django.contrib import admin
from django.utils.translation import gettext_lazy as _

admin.site.site_header = _("Shop")
admin.site.site_title = _("Shop")
admin.site.index_title = _("Data of the services")
