"""Kitchen: what was cooked for a table, and whether its guests have their bill.

Owns       one row per table
Announces  dish_cooked
Reacts to  bills printed (``reactions.py``)
"""
