"""Settings of a small project without the shop: two services in nested packages, SQLite, the embedded broker."""

from pathlib import Path

BASE_DIR = Path(__file__).resolve().parent
SECRET_KEY = "for tests only"
USE_TZ = True
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"

INSTALLED_APPS = [
    "django.contrib.admin",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.messages",
    "django.contrib.sessions",
    "choreography",
    "tests.testapp.services.kitchen",
    "tests.testapp.services.billing",
]
MIDDLEWARE = [
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
]
TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
            ],
        },
    },
]
ROOT_URLCONF = "tests.testapp.urls"

DATABASES = {
    alias: {"ENGINE": "django.db.backends.sqlite3", "NAME": BASE_DIR / f"{alias}.sqlite3", "TEST": {"DEPENDENCIES": []}}
    for alias in ("default", "kitchen", "billing")
}
DATABASE_ROUTERS = ["choreography.storage.routers.ServiceRouter"]

CHOREOGRAPHY = {"SERVICES": ("kitchen", "billing")}

RECEIPT_PRINTER = "tests.testapp.services.billing.printer.FakePrinter"
REMIND_SECONDS = 5.0
