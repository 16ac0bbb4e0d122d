"""The order everyone places: two lines, paid by a card that works, sent to an address that exists."""

from typing import Final
from uuid import uuid4

#: Product id, SKU, name, price in cents, quantity.
LINES: Final = ((1, "TEA", "Tea", 1250, 2), (2, "CUP", "Cup", 800, 1))
CURRENCY: Final = "EUR"
TOTAL: Final = sum(price * quantity for _, _, _, price, quantity in LINES)
TOKEN: Final = "tok_approved"
CUSTOMER: Final = {"customer_name": "Ada Example", "customer_email": "ada@example.org"}
ADDRESS: Final = {"street": "Main Street 1", "city": "Bonn", "postal_code": "53111", "country": "DE"}
SHIP_TO: Final = {"name": CUSTOMER["customer_name"], **ADDRESS}
#: What of an order's columns is empty when it is placed.
BLANK: Final = {"parcel": "", "reason": "", "attention": ""}

#: Parcels every system looks at in one go.
PARCELS_AT_ONCE: Final = 200

new_id = uuid4
