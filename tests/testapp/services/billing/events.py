"""The facts billing announces."""

from pydantic import Field

from choreography import Announced


class BillPrinted(Announced, type="billing.bill_printed.v1"):
    """The table has its receipt."""

    total: int = Field(description="in cents")
