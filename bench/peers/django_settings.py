"""Settings of ``celery_orm``: the shop's tables in one database, and nothing else of the shop."""

import os

import environ

SECRET_KEY = "kept by nobody"
INSTALLED_APPS = ["django.contrib.contenttypes", "django.contrib.auth", "orders", "payments", "shipping"]
if os.environ.get("OUTBOX") == "1":
    INSTALLED_APPS.append("django_celery_outbox")
    CELERY_OUTBOX_APP = "bench.peers.celery_orm.app"
    MONITORING_METRICS_ENABLED = False
DATABASES = {"default": environ.Env.db_url_config(os.environ["DATABASE_URL"]) | {"CONN_MAX_AGE": 60}}
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
USE_TZ = True
