"""Where the parts are put together, once Django has loaded them all."""

from django.apps import AppConfig


class ShopConfig(AppConfig):
    name = "shop"
    verbose_name = "Shop"

    def ready(self) -> None:
        from choreography import worker
        from shop.celery import app

        worker.install(app)
