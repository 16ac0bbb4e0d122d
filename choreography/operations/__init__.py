"""Checks at startup, and the doctor for a running installation."""
