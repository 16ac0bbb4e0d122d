"""What kitchen listens to, and what it does about it."""

from choreography import Event, Heard, reacts_to
from tests.testapp.services.kitchen import services
from tests.testapp.services.kitchen.models import Table


class BillPrinted(Heard):
    total: int


@reacts_to("billing.bill_printed.v1", rows=Table.objects)
def record_bill(table: Table, event: Event[BillPrinted]) -> None:
    services.record_bill(table, event.data.total)
