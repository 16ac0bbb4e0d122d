from django.apps import AppConfig


class BillingConfig(AppConfig):
    name = "tests.testapp.services.billing"
