"""What people see of kitchen."""

from django.contrib import admin

from tests.testapp.services.kitchen.models import Table

admin.site.register(Table)
