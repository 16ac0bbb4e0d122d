"""What billing does as time passes."""

from choreography import every, transaction_of
from tests.testapp.services.billing.models import Bill


@every("REMIND_SECONDS")
def forget_empty_bills() -> None:
    """Delete bills without an amount."""
    with transaction_of("billing"):
        Bill.objects.filter(total=0).delete()
