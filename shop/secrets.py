"""Random secrets, kept in files that only their owner can read."""

import os
import secrets
from pathlib import Path

from django.core.exceptions import ImproperlyConfigured

from shop.environment import make_data_folder


def random_secret() -> str:
    """Forty random characters, from a cryptographic source."""
    return secrets.token_urlsafe(30)


def require_secret_key() -> None:
    """Check that there is a key to sign sessions with.

    Raises:
        ImproperlyConfigured: there is none.
    """
    from django.conf import settings  # here: the settings import this module

    if not settings.HAS_SECRET_KEY:
        raise ImproperlyConfigured(
            "SECRET_KEY is missing. Set it in the environment or in .env to a long random string that you keep, "
            "or set DEBUG=true to try the shop out on this machine."
        )


def local_secret(path: Path) -> str:
    """The secret kept in ``path``, generated on the first call. Concurrent processes get the same one."""
    if not path.exists():
        make_data_folder(path.parent)
        write_private(path.with_suffix(f".{os.getpid()}"), random_secret())
        try:
            os.link(path.with_suffix(f".{os.getpid()}"), path)
        except FileExistsError:
            pass  # another process was first: use its secret
        finally:
            path.with_suffix(f".{os.getpid()}").unlink()
    return path.read_text().strip()


def write_private(path: Path, text: str) -> None:
    """Write a file that only its owner can read. It is created with these permissions."""
    path.unlink(missing_ok=True)
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(text + "\n")
