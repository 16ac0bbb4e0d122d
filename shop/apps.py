"""Connects the parts of the project when Django has loaded all apps."""

from django.apps import AppConfig
from django.conf import settings


class ShopConfig(AppConfig):
    name = "shop"
    verbose_name = "Shop"

    def ready(self) -> None:
        from choreography.worker import setup
        from shop.celery import app

        setup.install(app)
        if "orders" in settings.SERVICES:
            _suggest_test_values()


def _suggest_test_values() -> None:
    """Offer the sandboxes' test tokens and test addresses in the form for a new order, if the sandboxes are in use."""
    from orders import forms

    if "payments" in settings.SERVICES and settings.PAYMENT_GATEWAY == "payments.sandbox.SandboxGateway":
        from payments.sandbox import TOKENS

        forms.suggested_tokens = TOKENS
    if "shipping" in settings.SERVICES and settings.CARRIER == "shipping.sandbox.SandboxCarrier":
        from shipping.sandbox import ADDRESSES

        forms.suggested_streets = ADDRESSES
