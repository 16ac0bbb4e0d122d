"""The sample orders, played with everything but the broker: each ends as it says it must."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from django.core.exceptions import ValidationError
from pytest_django.fixtures import Settings

from choreography.core import clock
from choreography.testing import FrozenClock
from orders import money
from orders.models import Order, Product
from shop import samples, verify
from shop.samples import CATALOGUE, SAMPLES, Sample
from tests.shop_in_a_box import Shop

pytestmark = pytest.mark.django_db(databases="__all__")


@pytest.fixture
def shop(data_dir: Path, settings: Settings) -> Iterator[Shop]:
    settings.SANDBOX_SLOW_SECONDS = 0.0
    frozen = FrozenClock()
    with clock.use_clock(frozen):
        shop = Shop(frozen)
        yield shop
        shop.close()


@pytest.mark.parametrize("sample", SAMPLES, ids=lambda sample: str(sample.title))
def test_each_sample_ends_as_it_must(shop: Shop, sample: Sample) -> None:
    (order,) = samples.place([sample])
    assert not verify.has_ended(order.pk)

    shop.settle()

    assert verify.has_ended(order.pk)
    assert verify.faults(order.pk, sample.ending) == []


@pytest.mark.parametrize("sample", SAMPLES, ids=lambda sample: str(sample.title))
def test_the_endings_tell_the_samples_apart(shop: Shop, sample: Sample) -> None:
    (order,) = samples.place([sample])
    shop.settle()

    fitting = [other for other in SAMPLES if not verify.faults(order.pk, other.ending)]

    # What was retried is delivered as well.
    assert fitting == ([SAMPLES[0], sample] if sample.ending.attempts > 1 else [sample])


def test_all_are_placed_or_none() -> None:
    samples.seed_catalogue()
    Product.objects.filter(sku="TEA-JEJU").update(active=False)

    with pytest.raises(ValidationError, match="not sold any more"):
        samples.place()
    assert not Order.objects.exists()


def test_the_catalogue_is_sound() -> None:
    samples.seed_catalogue()

    for product in Product.objects.all():
        product.full_clean()
    assert {currency for _, _, _, currency in CATALOGUE} <= money.currencies()


def test_a_catalogue_that_someone_made_is_left_alone() -> None:
    Product.objects.create(sku="MINE", name="Mine", price=1, currency="EUR")

    assert samples.seed_catalogue() == 0
    assert Product.objects.count() == 1


def test_without_the_sandboxes_they_are_not_placed(settings: Settings) -> None:
    assert samples.can_be_placed()

    settings.PAYMENT_GATEWAY = "builtins.object"

    assert not samples.can_be_placed()
