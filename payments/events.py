"""The facts payments announces: its published contract. A published version never changes shape."""

from pydantic import Field

from choreography.events.messages import Announced
from common.money import Amount, Currency
from common.texts import Code


class PaymentAuthorized(Announced, type="payments.payment_authorized.v1"):
    """The order's total is held on the customer's account."""

    amount: Amount = Field(description="what is held, in minor units")
    currency: Currency = Field(description="ISO 4217 code")


class PaymentDeclined(Announced, type="payments.payment_declined.v1"):
    """The customer's bank said no. Nothing is held."""

    reason: Code = Field(description="a code: insufficient_funds, expired_card, suspected_fraud, invalid_token ...")


class PaymentCaptured(Announced, type="payments.payment_captured.v1"):
    """The held amount has been taken."""

    amount: Amount = Field(description="what was taken, in minor units")
    currency: Currency = Field(description="ISO 4217 code")


class CaptureFailed(Announced, type="payments.capture_failed.v1"):
    """The parcel is on its way but the provider refuses to pay. A person has to look."""

    reason: Code = Field(description="the provider's code")


class PaymentVoided(Announced, type="payments.payment_voided.v1"):
    """The order was cancelled and nothing is held for it any more."""

    amount: Amount = Field(description="what was let go, in minor units; 0 if nothing was held")
    currency: Currency = Field(description="ISO 4217 code")


class PaymentRefunded(Announced, type="payments.payment_refunded.v1"):
    """The order was cancelled and what had been taken is on its way back."""

    amount: Amount = Field(description="what was given back, in minor units")
    currency: Currency = Field(description="ISO 4217 code")


class AuthorizationExpired(Announced, type="payments.authorization_expired.v1"):
    """The hold lapsed before anything was shipped. It has been let go."""

    amount: Amount = Field(description="what was held, in minor units")
    currency: Currency = Field(description="ISO 4217 code")
