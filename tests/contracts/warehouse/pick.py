"""A service of another repository, without Django: reads what was ordered from a line of JSON per event."""

import json
import sys

for line in sys.stdin:
    event = json.loads(line)
    if event["type"] == "orders.order_placed.v2":
        for it in event["data"]["lines"]:
            sys.stdout.write(f"{it['quantity']} x {it['sku']}\n")
