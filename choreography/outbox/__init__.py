"""Announcing an event inside a transaction, and the relay that publishes it."""
