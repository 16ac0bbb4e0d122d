"""Amounts are integers in minor units, of as many decimals as ISO 4217 says."""

import re

import iso4217
import pytest
from django.utils.translation import override

from common.money import decimals, display
from orders import money

#: Of the standard's list: metals, funds of units and codes for tests have no minor unit.
WITH_MINOR_UNIT = [currency for currency in iso4217.Currency if currency.exponent is not None]


@pytest.mark.parametrize("currency", WITH_MINOR_UNIT, ids=lambda currency: str(currency.code))
def test_a_currency_has_the_decimals_of_the_standard(currency: iso4217.Currency) -> None:
    assert decimals(currency.code) == currency.exponent
    shown = display(123_456_789, currency.code)
    assert re.sub(r"\D", "", shown) == "123456789"
    assert len(shown) - len(re.sub(r"\.\d+$", "", shown)) == (currency.exponent and currency.exponent + 1)


def test_every_currency_the_shop_takes_is_one_of_the_standard() -> None:
    listed = {currency.code for currency in WITH_MINOR_UNIT}

    # Bulgaria pays in euro since 2026; Babel's list is older.
    assert {code for code in money.currencies() if code not in listed} <= {"BGN"}


@pytest.mark.parametrize(
    ("language", "amount", "currency", "shown"),
    [
        ("en", 1999, "EUR", "€19.99"),
        ("en", 500, "KRW", "₩500"),
        ("en", 199_900, "ALL", "ALL1,999.00"),
        ("de", 199_900, "EUR", "1.999,00\N{NO-BREAK SPACE}€"),
    ],
)
def test_an_amount_is_shown_as_people_read_it(language: str, amount: int, currency: str, shown: str) -> None:
    with override(language):
        assert display(amount, currency).replace("ALL\N{NO-BREAK SPACE}", "ALL") == shown
