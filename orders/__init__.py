"""Orders: what customers want, and how far it has come.

Owns       the catalogue, orders and their lines
Announces  order_placed, cancellation_requested, order_cancelled, order_completed
Reacts to  what payments and shipping say became of an order (``reactions.py``)
"""
