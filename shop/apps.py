"""Where the parts are put together, once Django has loaded them all."""

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
            _suggest_what_the_sandboxes_know()


def _suggest_what_the_sandboxes_know() -> None:
    """Let the form for a new order offer the test tokens and test addresses, where the sandboxes are in use."""
    from orders import forms

    if "payments" in settings.SERVICES and settings.PAYMENT_GATEWAY == "payments.sandbox.SandboxGateway":
        from payments.sandbox import TOKENS

        forms.suggested_tokens = TOKENS
    if "shipping" in settings.SERVICES and settings.CARRIER == "shipping.sandbox.SandboxCarrier":
        from shipping.sandbox import ADDRESSES

        forms.suggested_streets = ADDRESSES
