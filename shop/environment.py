"""Environment variables as they are written: no value is read as the name of another variable, or as a URL's part."""

import os
from collections.abc import Iterator, Mapping

import environ


class _Escaped(Mapping[str, str]):
    """The environment with every ``$`` escaped, which django-environ would else follow to another variable."""

    def __getitem__(self, name: str) -> str:
        return os.environ[name].replace("$", r"\$")

    def __iter__(self) -> Iterator[str]:
        return iter(os.environ)

    def __len__(self) -> int:
        return len(os.environ)


env = environ.Env()
env.ENVIRON = _Escaped()
env.escape_proxy = True  # takes the escapes away again
