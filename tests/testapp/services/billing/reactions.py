"""What billing listens to, and what it does about it."""

from choreography import Event, Heard, reacts_to
from tests.testapp.services.billing import services
from tests.testapp.services.billing.events import BillPrinted
from tests.testapp.services.billing.models import Bill
from tests.testapp.services.billing.printer import printer


class DishCooked(Heard):
    dish: str
    price: int


def _ask_to_print(bill: Bill, event: Event[DishCooked]) -> str:
    return services.ask_to_print(bill, event.data.dish, event.data.price)


@reacts_to(
    "kitchen.dish_cooked.v1",
    rows=Bill.objects,
    ask=_ask_to_print,
    external_system=printer,
    announces=[BillPrinted],
)
def write_bill(bill: Bill, event: Event[DishCooked], answer: str) -> None:
    services.record_receipt(bill, event.data.price, answer)
