"""Billing: one bill per table; the receipt printer is behind ``printer.Printer``.

Owns       a total per table
Announces  bill_printed
Reacts to  dishes cooked (``reactions.py``)
"""
