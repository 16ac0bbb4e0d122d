"""Prepares what the processes need: databases, topology, an administrator, a few products."""

import fcntl
import os
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import unquote

from django.conf import settings
from django.contrib.auth import get_user_model
from django.contrib.auth.password_validation import validate_password
from django.core.exceptions import ValidationError
from django.core.management import call_command
from django.db import OperationalError, connections
from django.db.migrations.executor import MigrationExecutor
from django.utils.translation import gettext as _

from choreography.broker import topology
from choreography.broker.publisher import broker_errors, connect, explain, reach
from choreography.core.conf import conf
from choreography.core.errors import one_line
from shop.environment import env, make_data_folder
from shop.secrets import local_secret, random_secret, write_private

#: Bytes of a SQLite file up to which all of it is looked at.
_CHECKED_WHOLE = 50_000_000
#: Seconds to wait for a connection to a server, and between two attempts to reach the broker.
_CONNECT_TIMEOUT, _PAUSE = 5, 0.5

#: Key of the PostgreSQL advisory lock under which a database is prepared. The number has no meaning.
_LOCK = 7_467_013


class CannotPrepare(Exception):
    """A database or the broker can't be used. The message names it and the remedy."""


@dataclass(frozen=True)
class Prepared:
    """The result of ``prepare``."""

    admin_user: str
    admin_password: str | None = field(repr=False)
    """A generated password; ``None`` if there was an administrator, or ``ADMIN_PASSWORD`` is set."""
    products_added: int


def prepare(wait: float = 10.0) -> Prepared:
    """Prepare databases, broker, catalogue and accounts. Safe to repeat, and to run in two processes at once.

    Args:
        wait: seconds to wait for the broker.

    Raises:
        CannotPrepare: a database or the broker can't be reached, or the administrator's name is taken.
    """
    products_added = prepare_data(wait)
    with _locked_folder(data_dir()), _locked_database("default"):
        user, password = create_admin()
    flower_password()
    return Prepared(user, password, products_added)


def prepare_data(wait: float = 10.0) -> int:
    """Prepare databases, topology and catalogue.

    Returns:
        How many products were added.

    Raises:
        CannotPrepare: a database or the broker can't be reached, or a file is damaged.
    """
    make_data_folder(data_dir())
    data_dir().chmod(0o700)  # SQLite files hold personal data
    with _locked_folder(data_dir()):
        for file in _sqlite_files():
            _refuse_damaged(file)
        for alias in settings.DATABASES:
            with _locked_database(alias):
                migrate(alias)
        declare_topology(wait)
        return _seed_catalogue()


def data_dir() -> Path:
    """The folder for everything that is written."""
    return Path(settings.DATA_DIR)


def migrate(alias: str) -> None:
    """Apply missing migrations. The database of a service gets only the tables of that service."""
    executor = MigrationExecutor(connections[alias])
    targets = executor.loader.graph.leaf_nodes(None if alias == "default" else alias)
    if executor.migration_plan(targets):
        label = [] if alias == "default" else [alias]
        call_command("migrate", *label, database=alias, verbosity=0, interactive=False)


def _sqlite_files() -> Iterator[Path]:
    """The files of the databases and of the embedded broker that exist already."""
    names = [str(config["NAME"]) for config in settings.DATABASES.values() if config["ENGINE"].endswith("sqlite3")]
    url = conf().broker_url
    broker = [unquote(url.removeprefix("embedded://"))] if url.startswith("embedded:") else []
    yield from (path for path in map(Path, [*names, *broker]) if path.is_file() and path.stat().st_size)


def _refuse_damaged(file: Path) -> None:
    """Look whether SQLite can read a file; all of one that is not large.

    Raises:
        CannotPrepare: it can't.
    """
    check = "PRAGMA quick_check(1)" if file.stat().st_size < _CHECKED_WHOLE else "PRAGMA schema_version"
    try:
        with closing(sqlite3.connect(file, timeout=30)) as database:
            [found] = database.execute(check).fetchone()
    except sqlite3.OperationalError:
        return  # locked, or not to be opened: whoever uses it says so
    except sqlite3.DatabaseError as error:
        found = str(error)
    if found != "ok" and not isinstance(found, int):
        raise CannotPrepare(
            _("%(file)s is damaged: %(error)s. Restore it, or move it away to begin with an empty one.")
            % {"file": file, "error": one_line(found)}
        )


def declare_topology(wait: float) -> None:
    """Declare exchanges and queues. Waits for the broker if it can't be reached.

    Raises:
        CannotPrepare: the broker can't be reached within ``wait`` seconds, or refuses.
    """
    deadline = time.monotonic() + wait
    while True:
        with connect() as connection:
            try:
                reach(connection)
                topology.declare(connection)
                return
            except broker_errors(connection) as error:
                refused = isinstance(error, connection.channel_errors)
                if refused or time.monotonic() >= deadline:
                    raise CannotPrepare(explain(connection, error)) from error
        time.sleep(_PAUSE)


def create_admin() -> tuple[str, str | None]:
    """Create an administrator if there is none.

    Returns:
        The name, and the password if it was generated.

    Raises:
        CannotPrepare: the name belongs to an account that is not an administrator, or the password is weak.
    """
    users = get_user_model().objects
    name = env.str("ADMIN_USER", default="admin")
    if users.filter(is_superuser=True).exists():
        return name, None
    if users.filter(username=name).exists():
        raise CannotPrepare(
            _("There is an account named %s already, and it is not an administrator. Set ADMIN_USER to another name.")
            % name
        )
    given = env.str("ADMIN_PASSWORD", default="")
    if given and not settings.DEBUG:
        _refuse_weak(given)
    password = given or random_secret()
    kept = admin_password_file()
    kept.unlink(missing_ok=True)
    if not given:
        write_private(kept, password)  # before the account is created, so that no account has a lost password
    users.create_superuser(name, password=password)
    return name, None if given else password


def _refuse_weak(password: str) -> None:
    try:
        validate_password(password)
    except ValidationError as error:
        raise CannotPrepare(_("ADMIN_PASSWORD is refused: %s") % " ".join(error.messages)) from None


def admin_password_file() -> Path:
    """The file of a generated password."""
    return data_dir() / "admin-password"


def flower_password() -> str:
    """Flower's password: ``FLOWER_PASSWORD``, else one generated once and kept in ``DATA_DIR/flower-password``."""
    return env.str("FLOWER_PASSWORD", default="") or local_secret(data_dir() / "flower-password")


def _seed_catalogue() -> int:
    if "orders" not in settings.SERVICES:
        return 0
    from shop.samples import seed_catalogue  # here: the orders app may not be installed in this process

    with _locked_database("orders"):
        return seed_catalogue()


@contextmanager
def _locked_folder(folder: Path) -> Iterator[None]:
    """Lock a data folder and its SQLite files, so that one process at a time prepares it."""
    descriptor = os.open(folder / "prepare.lock", os.O_CREAT | os.O_RDWR, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


@contextmanager
def _locked_database(alias: str) -> Iterator[None]:
    """Lock a PostgreSQL database, so that one process at a time prepares it, on any machine.

    Raises:
        CannotPrepare: the database can't be reached.
    """
    with closing(connections[alias].copy()) as connection:
        if connection.vendor == "postgresql":
            connection.settings_dict["OPTIONS"].setdefault("connect_timeout", _CONNECT_TIMEOUT)
        try:
            connection.ensure_connection()
            if connection.vendor == "postgresql":
                # Until this transaction ends: a connection pool would keep the lock of a session.
                connection.set_autocommit(False)
                with connection.cursor() as cursor:
                    cursor.execute("SELECT pg_advisory_xact_lock(%s)", [_LOCK])
        except OperationalError as error:
            raise CannotPrepare(
                _("The database of %(owner)s can't be reached: %(error)s. Check %(variable)s.")
                % {"owner": _owner(alias), "error": one_line(error), "variable": _variable_of(alias)}
            ) from error
        yield


def _owner(alias: str) -> str:
    """The owner of a database: a service, or the accounts."""
    return "accounts" if alias == "default" else alias


def _variable_of(alias: str) -> str:
    """The environment variable that sets the URL of a database."""
    own = f"{_owner(alias).upper()}_DATABASE_URL"
    return next((name for name in (own, "DATABASE_URL") if env.str(name, default="")), "DATA_DIR")
