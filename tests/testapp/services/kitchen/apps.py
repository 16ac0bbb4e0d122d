from django.apps import AppConfig


class KitchenConfig(AppConfig):
    name = "tests.testapp.services.kitchen"
