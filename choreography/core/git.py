"""Ask git, the program."""

import shutil
import subprocess

from choreography.core.errors import ContractError


def git(*arguments: str, about: str) -> str:
    """What git prints.

    Args:
        about: what could not be read if it fails, for the message.

    Raises:
        ContractError: there is no git, or it fails.
    """
    try:
        done = subprocess.run(  # noqa: S603 (no shell; callers refuse names that git would take for options)
            [shutil.which("git") or "git", *arguments], check=True, capture_output=True, text=True
        )
    except (OSError, subprocess.CalledProcessError) as error:
        why = (getattr(error, "stderr", "") or str(error)).strip()
        raise ContractError(f"{about} can't be read: {why}") from None
    return done.stdout
