"""Texts in events: as long as what the services keep them in."""

from typing import Annotated

from pydantic import Field

_CODE = 100

#: A person's name, or a city's.
Name = Annotated[str, Field(max_length=120)]
#: A street with its house number.
Street = Annotated[str, Field(max_length=200)]
PostalCode = Annotated[str, Field(max_length=12)]
#: ISO 3166-1 alpha-2.
Country = Annotated[str, Field(pattern="^[A-Z]{2}$")]
#: A word for programs, such as a reason, and the name that an external system gives to something.
Code = Annotated[str, Field(max_length=_CODE)]


def as_code(reason: str) -> str:
    """What an external system gave as its reason, cut to the length of a code; ``unknown`` where it gave none."""
    return reason.strip()[:_CODE] or "unknown"
