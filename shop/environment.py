"""Environment variables as they are written: no value is read as the name of another variable, or as a URL's part."""

import math
import os
import re
from collections.abc import Collection, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from urllib.parse import urlsplit

import environ
from django.core.exceptions import ImproperlyConfigured

_LINE = re.compile(r"\s*(#.*)?$|(export )?[A-Za-z_0-9]+=")
_FALSE = ("false", "off", "n", "no", "0")
_MAIL = ("smtp", "smtp+tls", "smtp+ssl")
_DATABASES = ("postgres", "postgresql", "sqlite")


class _Escaped(Mapping[str, str]):
    """The environment with every ``$`` escaped, which django-environ would else follow to another variable."""

    def __getitem__(self, name: str) -> str:
        return os.environ[name].replace("$", r"\$")

    def __iter__(self) -> Iterator[str]:
        return iter(os.environ)

    def __len__(self) -> int:
        return len(os.environ)


class Environment(environ.Env):  # type: ignore[misc]  # it has no types
    """The environment. A value that makes no sense is refused, with the name of its variable.

    django-environ would take any word it does not know for false, and ``24h`` for the number 24.
    """

    def flag(self, name: str, *, default: bool) -> bool:
        """True or false.

        Raises:
            ImproperlyConfigured: it is neither.
        """
        text = self._text(name).lower()
        if text and text not in (*self.BOOLEAN_TRUE_STRINGS, *_FALSE):
            raise _refused(name, text, "true or false")
        return text in self.BOOLEAN_TRUE_STRINGS if text else default

    def whole(self, name: str, *, default: int, least: int) -> int:
        """A whole number.

        Raises:
            ImproperlyConfigured: it is none, or less than ``least``.
        """
        text = self._text(name)
        if not text:
            return default
        if not text.isdecimal() or int(text) < least:
            raise _refused(name, text, f"a whole number, {least} or more")
        return int(text)

    def number(self, name: str, *, default: float) -> float:
        """A number that is not negative, such as seconds.

        Raises:
            ImproperlyConfigured: it is none.
        """
        text = self._text(name)
        try:
            number = float(text) if text else default
        except ValueError:
            number = math.nan
        if not 0 <= number < math.inf:
            raise _refused(name, text, "a number, 0 or more, without a unit")
        return number

    def choice(self, name: str, options: Collection[str], *, default: str) -> str:
        """One of a few words, in capitals or not.

        Raises:
            ImproperlyConfigured: it is none of them.
        """
        text = self._text(name) or default
        for option in options:
            if text.lower() == option.lower():
                return option
        raise _refused(name, text, f"one of {', '.join(options)}")

    def database(self, *names: str) -> dict[str, object] | None:
        """What Django takes for a database, from the first of these variables that has a URL.

        Raises:
            ImproperlyConfigured: it is not the URL of a PostgreSQL or SQLite database. Does not show it: it may have
                a password.
        """
        name = next((name for name in names if self._text(name)), None)
        if name is None:
            return None
        url = self._text(name)
        config: dict[str, object] = {}
        with suppress(ValueError):  # of a port that is no number, for example
            if urlsplit(url).scheme in _DATABASES:
                config = self.db_url_config(url)
        if not config.get("NAME"):
            raise ImproperlyConfigured(
                f"{name} is not the URL of a database. Give one such as postgres://shop:password@127.0.0.1:5432/shop, "
                "characters such as @ and # in the password percent-encoded, or sqlite:////folder/file."
            )
        return config

    def address(self, name: str) -> str:
        """Where a program answers over HTTP; empty if nothing is said.

        Raises:
            ImproperlyConfigured: it is no such URL. Does not show it: it may have a password.
        """
        url = self._text(name)
        if url and not _has_host(url, ("http", "https")):
            raise ImproperlyConfigured(f"{name} is not a URL. Give one such as http://127.0.0.1:8080/path.")
        return url

    def mail_server(self, name: str) -> dict[str, object]:
        """Django's settings for the server that takes mail; none if nothing is said.

        Raises:
            ImproperlyConfigured: it is not the URL of one. Does not show it: it may have a password.
        """
        url = self._text(name)
        if not url:
            return {}
        if not _has_host(url, _MAIL):
            raise ImproperlyConfigured(
                f"{name} is not the URL of a mail server. Give one such as smtp+tls://user:password@host:587, "
                "characters such as @ and # in the password percent-encoded."
            )
        return dict(self.email_url_config(url))

    def _text(self, name: str) -> str:
        return str(self.str(name, default="")).strip()


def _has_host(url: str, schemes: Collection[str]) -> bool:
    try:
        parts = urlsplit(url)
        parts.port  # noqa: B018 (raises if it is no number)
    except ValueError:
        return False
    return parts.scheme in schemes and bool(parts.hostname)


def read_file(path: Path) -> None:
    """Take the variables that are not set from a file with a line ``NAME=value`` for each.

    Raises:
        ImproperlyConfigured: the file can't be read, or has another line. Does not show it: it may hold a secret.
    """
    try:
        lines = path.read_text().splitlines() if path.is_file() else []
    except (OSError, UnicodeDecodeError) as error:
        raise ImproperlyConfigured(f"{path} can't be read: {error}.") from error
    for number, line in enumerate(lines, 1):
        if not _LINE.match(line):
            raise ImproperlyConfigured(
                f"{path}, line {number}: write NAME=value there, without spaces before or around =, or # and a comment."
            )
    environ.Env.read_env(path)


def make_data_folder(folder: Path) -> None:
    """Make ``DATA_DIR``, or a folder in it, if it does not exist.

    Raises:
        ImproperlyConfigured: it can't be made.
    """
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise ImproperlyConfigured(
            f"DATA_DIR can't be used: {folder}: {error.strerror}. Give a folder that can be written."
        ) from error


def _refused(name: str, text: str, expected: str) -> ImproperlyConfigured:
    return ImproperlyConfigured(f"{name} is {text}. Give {expected}.")


env = Environment()
env.ENVIRON = _Escaped()
env.escape_proxy = True  # takes the escapes away again
