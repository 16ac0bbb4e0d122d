"""Money: an integer in minor units with an ISO 4217 code, and how people read it."""

from decimal import Decimal
from typing import Annotated

from babel import Locale, UnknownLocaleError
from babel.numbers import format_currency, get_currency_precision
from django.utils.translation import get_language, to_locale
from pydantic import Field

#: Money: an amount in the currency's minor unit (cents; KRW has none) ...
Amount = Annotated[int, Field(ge=0, le=2**53 - 1, description="in minor units of the currency")]
#: ... and the currency, ISO 4217.
Currency = Annotated[str, Field(pattern="^[A-Z]{3}$", description="ISO 4217 code")]


def display(amount: int, currency: str) -> str:
    """``display(1999, "EUR")`` -> ``€19.99``; KRW has no decimals: ``display(500, "KRW")`` -> ``₩500``."""
    value = Decimal(amount).scaleb(-get_currency_precision(currency))
    return str(format_currency(value, currency, locale=current_locale()))


def current_locale() -> str:
    """The current language as a locale Babel knows; English where it does not."""
    locale = to_locale(get_language() or "en")
    try:
        return str(Locale.parse(locale))
    except (UnknownLocaleError, ValueError):
        return "en"
