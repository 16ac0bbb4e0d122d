"""Where the parts are put together, once Django has loaded them all."""

from django.apps import AppConfig
from django.conf import settings


class ShopConfig(AppConfig):
    name = "shop"
    verbose_name = "Shop"

    def ready(self) -> None:
        from choreography import worker
        from shop.celery import app

        worker.install(app)
        if "orders" in settings.SERVICES:
            _suggest_what_the_sandboxes_know()


def _suggest_what_the_sandboxes_know() -> None:
    """Let the form for a new order offer the test tokens and test addresses, where the sandboxes are in use."""
    from orders import forms
    from payments import sandbox as payments
    from shipping import sandbox as shipping

    if settings.PAYMENT_GATEWAY == "payments.sandbox.SandboxGateway":
        forms.suggested_tokens = payments.TOKENS
    if settings.CARRIER == "shipping.sandbox.SandboxCarrier":
        forms.suggested_streets = shipping.ADDRESSES
