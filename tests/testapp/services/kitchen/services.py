"""What kitchen can do: cook, and remember what was billed."""

from choreography import announce, transaction_of
from tests.testapp.services.kitchen.events import DishCooked
from tests.testapp.services.kitchen.models import Table


def cook(table: str, dish: str, price: int) -> None:
    """Cook a dish for a table."""
    with transaction_of("kitchen"), Table.objects.locked([table]) as [row]:
        row.dishes += 1
        announce(DishCooked(dish=dish, price=price), subject=table)


def record_bill(table: Table, total: int) -> None:
    """Remember what the guests were billed."""
    table.billed = total
