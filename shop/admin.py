"""What the admin calls itself."""

from django.contrib import admin
from django.utils.translation import gettext_lazy as _

admin.site.site_header = _("Shop")  # type: ignore[assignment]
admin.site.site_title = _("Shop")  # type: ignore[assignment]
admin.site.index_title = _("What the services know")  # type: ignore[assignment]
