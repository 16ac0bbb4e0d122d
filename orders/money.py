"""Currencies and countries of the Unicode CLDR, through Babel."""

from collections.abc import Iterable
from functools import cache

from babel import Locale
from babel.numbers import get_territory_currencies

from common.money import current_locale, display

__all__ = ["countries", "country_choices", "country_name", "currencies", "display"]


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


def country_choices() -> Iterable[tuple[str, str]]:
    """Country codes and their names in the current language."""
    return countries(current_locale()).items()


def country_name(code: str) -> str:
    """A country's name in the current language; the code of one it does not know."""
    return countries(current_locale()).get(code, code)
