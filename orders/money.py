"""Currencies and countries as the world knows them (CLDR, through Babel), and money for people to read."""

from collections.abc import Iterable
from decimal import Decimal
from functools import cache

from babel import Locale, UnknownLocaleError
from babel.numbers import format_currency, get_currency_precision, get_territory_currencies
from django.utils.translation import get_language, to_locale


@cache
def countries(locale: str = "en") -> dict[str, str]:
    """ISO 3166-1 alpha-2 codes with names in a language, sorted by name. Groups such as the EU are left out."""
    no_countries = {"EU", "EZ", "UN", "XA", "XB", "ZZ", "QO"}
    names = {
        code: name
        for code, name in Locale.parse(locale).territories.items()
        if len(code) == 2 and code.isalpha() and code not in no_countries
    }
    return dict(sorted(names.items(), key=lambda entry: entry[1]))


@cache
def currencies() -> frozenset[str]:
    """ISO 4217 codes that are legal tender somewhere today."""
    return frozenset(code for country in countries() for code in get_territory_currencies(country))


def display(amount: int, currency: str) -> str:
    """``display(1999, "EUR")`` -> ``€19.99``; KRW has no decimals: ``display(500, "KRW")`` -> ``₩500``."""
    value = Decimal(amount).scaleb(-get_currency_precision(currency))
    return str(format_currency(value, currency, locale=current_locale()))


def country_choices() -> Iterable[tuple[str, str]]:
    """Country codes and their names in the current language."""
    return countries(current_locale()).items()


def current_locale() -> str:
    """The current language as a locale Babel knows; English where it does not."""
    locale = to_locale(get_language() or "en")
    try:
        return str(Locale.parse(locale))
    except (UnknownLocaleError, ValueError):
        return "en"
