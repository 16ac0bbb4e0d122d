"""Money: an integer in minor units with an ISO 4217 code, and how people read it."""

from copy import copy
from decimal import Decimal
from typing import Annotated

from babel import Locale, UnknownLocaleError
from django.utils.translation import get_language, to_locale
from pydantic import Field

#: Money: an amount in the currency's minor unit (cents; KRW has none) ...
Amount = Annotated[
    int,
    Field(
        ge=0,
        le=2**53 - 1,
        description="in minor units of the currency",
        json_schema_extra={"unit": "minor units of the currency"},
    ),
]
#: ... and the currency, ISO 4217.
Currency = Annotated[str, Field(pattern="^[A-Z]{3}$", description="ISO 4217 code")]


#: Decimals of the minor unit where they are not two: ISO 4217, list one of 2024-06-25
#: (https://www.six-group.com/en/products-services/financial-information/data-standards.html). The Unicode CLDR, which
#: Babel has, lists the decimals people still use: none for ALL, whose minor unit in payments is a hundredth.
_DECIMALS = {
    **dict.fromkeys(("BIF", "CLP", "DJF", "GNF", "ISK", "JPY", "KMF", "KRW", "PYG", "RWF", "UGX", "UYI"), 0),
    **dict.fromkeys(("VND", "VUV", "XAF", "XOF", "XPF"), 0),
    **dict.fromkeys(["BHD", "IQD", "JOD", "KWD", "LYD", "OMR", "TND"], 3),
    **dict.fromkeys(["CLF", "UYW"], 4),
}


def decimals(currency: str) -> int:
    """Decimals of a currency's minor unit: 2 for EUR, 0 for KRW, 3 for KWD."""
    return _DECIMALS.get(currency, 2)


def display(amount: int, currency: str) -> str:
    """``display(1999, "EUR")`` -> ``€19.99``; KRW has no decimals: ``display(500, "KRW")`` -> ``₩500``."""
    locale = Locale.parse(current_locale())
    digits = decimals(currency)
    pattern = copy(locale.currency_formats["standard"])
    pattern.frac_prec = (digits, digits)
    value = Decimal(amount).scaleb(-digits)
    return str(pattern.apply(value, locale, currency=currency, currency_digits=False))


def current_locale() -> str:
    """The current language as a locale Babel knows; English where it does not."""
    locale = to_locale(get_language() or "en")
    try:
        return str(Locale.parse(locale))
    except (UnknownLocaleError, ValueError):
        return "en"
