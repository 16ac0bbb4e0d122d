"""Payments: the money of an order, from the hold on the customer's account to where it ends up.

Owns       a ledger per order; the payment provider is behind ``gateway.Gateway``
Announces  payment_authorized, payment_declined, payment_captured, capture_failed, payment_voided,
           payment_refunded, authorization_expired
Reacts to  orders placed and cancelled, parcels dispatched (``reactions.py``)
"""
