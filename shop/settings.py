"""Settings. Values that differ between installations come from the environment.

``.env.example`` lists every variable. The defaults need no database server and no broker.
"""

import os
import sys
from datetime import timedelta
from pathlib import Path
from typing import cast

from csp.constants import NONE, SELF
from django.core.exceptions import ImproperlyConfigured

from shop.environment import env, read_file
from shop.logs import LEVELS, STYLES, logging_config
from shop.secrets import local_secret, random_secret

BASE_DIR = Path(__file__).resolve().parent.parent
read_file(BASE_DIR / ".env")
# What the processes write holds customers' addresses and secrets.
os.umask(0o077)

TESTING = "pytest" in sys.modules or sys.argv[1:2] == ["test"]
DEBUG = env.flag("DEBUG", default=False)
DATA_DIR = Path(env.str("DATA_DIR", default=str(BASE_DIR / "var"))).resolve()

# --- Services -------------------------------------------------------------------------------------------------

ALL_SERVICES = ("orders", "payments", "shipping", "journal")
SERVICES = tuple(dict.fromkeys(env.list("SHOP_SERVICES", default=[]) or ALL_SERVICES))
if unknown := set(SERVICES) - set(ALL_SERVICES):
    raise ImproperlyConfigured(
        f"SHOP_SERVICES names {', '.join(sorted(unknown))}. There are {', '.join(ALL_SERVICES)}."
    )

CHOREOGRAPHY = {
    "SERVICES": SERVICES,
    "BROKER_URL": env.str("BROKER_URL", default=""),
    "NAMESPACE": env.str("CHOREOGRAPHY_NAMESPACE", default=""),
    "DATA_DIR": DATA_DIR,
    # Journal does not report on itself: its reports would be reported without end.
    "REPORTS": tuple(service for service in SERVICES if service != "journal" and env.flag("REPORTS", default=True)),
    "EVENTS_PER_MESSAGE": env.whole("EVENTS_PER_MESSAGE", default=50, least=1),
    "SENT_ALONE": tuple(env.list("SENT_ALONE", default=[])),
    "RABBITMQ_MANAGEMENT_URL": env.address("RABBITMQ_MANAGEMENT_URL").rstrip("/"),
    "PURGE_SECONDS": env.number("PURGE_SECONDS", default=3600.0),
    "REDRIVE_SECONDS": env.number("REDRIVE_SECONDS", default=1.0),
    "LOST_RETRIES_SECONDS": env.number("LOST_RETRIES_SECONDS", default=5.0),
}

FLOWER_URL = env.address("FLOWER_URL")

PAYMENT_GATEWAY = env.str("PAYMENT_GATEWAY", default="payments.sandbox.SandboxGateway")
CARRIER = env.str("CARRIER", default="shipping.sandbox.SandboxCarrier")
SANDBOX_DIR = Path(env.str("SANDBOX_DIR", default=str(DATA_DIR / "sandbox"))).resolve()
SANDBOX_LATENCY_SECONDS = env.number("SANDBOX_LATENCY_SECONDS", default=0.0)
SANDBOX_SLOW_SECONDS = env.number("SANDBOX_SLOW_SECONDS", default=2.0)
SANDBOX_DELIVERY_SECONDS = env.number("SANDBOX_DELIVERY_SECONDS", default=2.0)

TRACK_PARCELS_SECONDS = env.number("TRACK_PARCELS_SECONDS", default=1.0)
EXPIRE_AUTHORIZATIONS_SECONDS = env.number("EXPIRE_AUTHORIZATIONS_SECONDS", default=60.0)
AUTHORIZATION_LIFETIME_SECONDS = env.number("AUTHORIZATION_LIFETIME_SECONDS", default=7 * 24 * 3600.0)
CANCEL_UNPAID_ORDERS_SECONDS = env.number("CANCEL_UNPAID_ORDERS_SECONDS", default=60.0)
UNPAID_ORDER_LIFETIME_SECONDS = env.number("UNPAID_ORDER_LIFETIME_SECONDS", default=24 * 3600.0)

CHECK_FLOWS_SECONDS = env.number("CHECK_FLOWS_SECONDS", default=5.0)
COUNT_MINUTES_SECONDS = env.number("COUNT_MINUTES_SECONDS", default=5.0)
TELL_PEOPLE_SECONDS = env.number("TELL_PEOPLE_SECONDS", default=60.0)
PURGE_FLOWS_SECONDS = env.number("PURGE_FLOWS_SECONDS", default=3600.0)
# Days for which flows are kept once they have ended, by the event they ended with; "" for any other.
JOURNAL_KEEP_DAYS = {"": env.number("JOURNAL_KEEP_DAYS", default=365.0)}
JOURNAL_KEEP_MINUTES_DAYS = env.number("JOURNAL_KEEP_MINUTES_DAYS", default=8.0)
JOURNAL_MAIL_TO = env.list("JOURNAL_MAIL_TO", default=[])
vars().update(env.mail_server("EMAIL_URL"))
EMAIL_TIMEOUT = 10
DEFAULT_FROM_EMAIL = env.str("MAIL_FROM", default="") or "shop@localhost"
JOURNAL_TRACES = env.flag("JOURNAL_TRACES", default=False)
EXPORT_TRACES_SECONDS = env.number("EXPORT_TRACES_SECONDS", default=5.0)
JOURNAL_WEBHOOK_URL = env.address("JOURNAL_WEBHOOK_URL")

# --- Security -------------------------------------------------------------------------------------------------

SECRET_KEY = env.str("SECRET_KEY", default="")
if not SECRET_KEY and (TESTING or DEBUG):
    SECRET_KEY = random_secret() if TESTING else local_secret(DATA_DIR / "secret-key")
# Without it the web pages refuse to start (require_secret_key); nothing else signs anything.
HAS_SECRET_KEY = bool(SECRET_KEY)
ALLOWED_HOSTS = env.list("ALLOWED_HOSTS", default=["127.0.0.1", "localhost"])
CSRF_TRUSTED_ORIGINS = env.list("CSRF_TRUSTED_ORIGINS", default=[])
HTTPS = env.flag("HTTPS", default=not (DEBUG or TESTING))
SECURE_SSL_REDIRECT = SESSION_COOKIE_SECURE = CSRF_COOKIE_SECURE = HTTPS
SECURE_HSTS_SECONDS = 365 * 24 * 3600 if HTTPS else 0
SECURE_HSTS_INCLUDE_SUBDOMAINS = SECURE_HSTS_PRELOAD = HTTPS
SECURE_PROXY_SSL_HEADER = ("HTTP_X_FORWARDED_PROTO", "https") if env.flag("BEHIND_PROXY", default=False) else None
SECURE_REDIRECT_EXEMPT = ["^healthz$", "^health/", "^metrics$"]
# Who may read /metrics: whoever has the token, and these addresses where no proxy is in front.
METRICS_TOKEN = env.str("METRICS_TOKEN", default="")
METRICS_ALLOWED = env.list("METRICS_ALLOWED", default=["127.0.0.1", "::1"])
X_FRAME_OPTIONS = "DENY"
# Nothing from elsewhere, and no script or style within a page.
CONTENT_SECURITY_POLICY = {
    "DIRECTIVES": {
        "default-src": [NONE],
        "script-src": [SELF],
        "style-src": [SELF],
        "img-src": [SELF, "data:"],
        "font-src": [SELF],
        "connect-src": [SELF],
        "form-action": [SELF],
        "base-uri": [NONE],
        "frame-ancestors": [NONE],
    }
}
# After five wrong passwords an account can't be logged in to from that address for a quarter of an hour.
AXES_FAILURE_LIMIT = 5
AXES_COOLOFF_TIME = timedelta(minutes=15)
AXES_LOCKOUT_PARAMETERS = [["username", "ip_address"]]
AXES_RESET_ON_SUCCESS = True
AXES_DISABLE_ACCESS_LOG = True
AXES_LOCKOUT_TEMPLATE = "shop/locked_out.html"
AXES_ENABLE_ADMIN = False  # manage.py axes_reset lets somebody in again
AUTHENTICATION_BACKENDS = ["axes.backends.AxesStandaloneBackend", "django.contrib.auth.backends.ModelBackend"]
LOGIN_REDIRECT_URL = "home"
AUTH_PASSWORD_VALIDATORS = [
    {"NAME": f"django.contrib.auth.password_validation.{name}"}
    for name in ("UserAttributeSimilarityValidator", "MinimumLengthValidator", "CommonPasswordValidator")
]

# --- Django ---------------------------------------------------------------------------------------------------

INSTALLED_APPS = [
    "django.contrib.admin",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
    "django.contrib.staticfiles",
    "axes",
    "django_structlog",
    "django_htmx",
    "choreography",
    *SERVICES,
    "shop",
]
MIDDLEWARE = [
    "django.middleware.security.SecurityMiddleware",
    "whitenoise.middleware.WhiteNoiseMiddleware",
    "shop.null_characters.RefuseNullCharacters",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.locale.LocaleMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "shop.outages.OutageMiddleware",
    "django_structlog.middlewares.RequestMiddleware",
    "django_htmx.middleware.HtmxMiddleware",
    "choreography.outbox.tracing.TraceMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
    "csp.middleware.CSPMiddleware",
    "axes.middleware.AxesMiddleware",
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
                "shop.views.flower",
            ],
        },
    },
]
ROOT_URLCONF = "shop.urls"
WSGI_APPLICATION = "shop.wsgi.application"
TEST_RUNNER = "shop.test_runner.PytestRunner"
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
STATIC_URL = "static/"
STATIC_ROOT = BASE_DIR / "staticfiles"
WHITENOISE_USE_FINDERS = True
LANGUAGE_CODE = "en"
TIME_ZONE = "UTC"
USE_TZ = True

# --- Databases ------------------------------------------------------------------------------------------------
# One alias per service; "default" holds accounts and sessions. Each alias takes <ALIAS>_DATABASE_URL, else
# DATABASE_URL (all in one database), else a SQLite file of its own.


def database(alias: str) -> dict[str, object]:
    file: dict[str, object] = {"ENGINE": "django.db.backends.sqlite3", "NAME": str(DATA_DIR / f"{alias}.sqlite3")}
    config = env.database(f"{alias.upper()}_DATABASE_URL", "DATABASE_URL") or file
    test: dict[str, object] = {"DEPENDENCIES": []}
    if config["ENGINE"] == "django.db.backends.sqlite3":
        config["OPTIONS"] = {
            "transaction_mode": "IMMEDIATE",
            "timeout": 30,
            "init_command": "PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL;",
        }
    else:
        config["CONN_HEALTH_CHECKS"] = True
        # They need a session, and PgBouncer in transaction mode gives none.
        config["DISABLE_SERVER_SIDE_CURSORS"] = True
        # Detect a server that no longer responds within a minute; the defaults of libpq take hours.
        # https://www.postgresql.org/docs/15/libpq-connect.html
        timeouts = {"connect_timeout": 10, "keepalives_idle": 30, "keepalives_interval": 10, "keepalives_count": 3}
        given = cast(dict[str, object], config.get("OPTIONS", {}))
        config["OPTIONS"] = {**timeouts, "tcp_user_timeout": 60_000, **given}
        # A test database per alias: of aliases that share one, Django's test runner would migrate only one.
        test["NAME"] = f"test_{config['NAME']}_{alias}"
    return config | {"CONN_MAX_AGE": 60, "TEST": test}


DATABASES = {"default": database("accounts")} | {service: database(service) for service in SERVICES}
DATABASE_ROUTERS = ["choreography.storage.routers.ServiceRouter"]

# --- Logs -----------------------------------------------------------------------------------------------------

LOGGING = logging_config(
    level=env.choice("LOG_LEVEL", LEVELS, default="WARNING" if TESTING else "INFO"),
    style=env.choice("LOG_FORMAT", STYLES, default="console"),
)
DJANGO_STRUCTLOG_CELERY_ENABLED = False
DJANGO_STRUCTLOG_USER_ID_FIELD = "pk"
