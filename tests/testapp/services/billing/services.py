"""What billing can do: print the bill of a table."""

from choreography import announce
from tests.testapp.services.billing.events import BillPrinted
from tests.testapp.services.billing.models import Bill
from tests.testapp.services.billing.printer import printer


def ask_to_print(bill: Bill, dish: str, price: int) -> str:
    """Print one more line. Returns the number of the receipt."""
    return printer().print_line(table=bill.table, dish=dish, price=price)


def record_receipt(bill: Bill, price: int, receipt: str) -> None:
    """Add the price to the bill."""
    bill.total += price
    bill.receipt = receipt
    announce(BillPrinted(total=bill.total), subject=bill.table)
