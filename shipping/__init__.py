"""Shipping: the parcel of an order, and the last word on whether an order can still be cancelled.

Owns       one shipment per order; the carrier is behind ``carrier.Carrier``
Announces  shipment_dispatched, shipment_delivered, shipment_failed, shipment_cancelled, cancellation_refused
Reacts to  orders placed, cancellations, payments authorized (``reactions.py``)
"""
