"""Parked work in a running shop: a person mends it in a browser and at the command line, whatever dies meanwhile."""

import json
import os
import re
import signal
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from playwright.sync_api import Browser, Page, expect

from tests.browser import PASSWORD, logged_in, open_web
from tests.processes import Process, RunningShop, eventually, running_shop
from tests.wire import event, sender

pytestmark = [pytest.mark.processes, pytest.mark.slow]

#: Makes the orders that dead letters are about, as a person would who mends what was missing.
MEND = """
import sys
from orders.models import DeadLetter, Order
for subject in sys.stdin.read().split():
    Order.objects.create(pk=subject, total=2500, currency="EUR")
"""


@pytest.fixture
def shop(tmp_path: Path) -> Iterator[RunningShop]:
    """A shop in which orders works."""
    with running_shop(tmp_path / "shop", ADMIN_PASSWORD=PASSWORD) as shop:
        shop.start("worker-orders", "beat")
        shop.started("worker-orders", "beat")
        yield shop


@pytest.fixture
def page(browser: Browser, shop: RunningShop) -> Iterator[Page]:
    with logged_in(browser, open_web(shop)) as page:
        yield page


def park(shop: RunningShop, number: int) -> list[str]:
    """Orders hears of payments for orders it does not know. Returns the ids of those orders."""
    events = [event("payments.payment_captured.v1", data={"amount": 2500, "currency": "EUR"}) for _ in range(number)]
    with sender(shop) as messages:
        for each in events:
            messages.send_event(each)
    eventually(lambda: states(shop)["parked"] >= number, otherwise=shop["worker-orders"].says)
    return [each["subject"] for each in events]


def mend(shop: RunningShop, subjects: Sequence[str]) -> None:
    code = MEND.replace("sys.stdin.read()", repr(" ".join(subjects)))
    assert ended(shop, "mend", "shell", "-c", code) == 0


def command(shop: RunningShop, name: str, *words: str) -> Process:
    return shop.run(name, [sys.executable, "manage.py", *words])


def ended(shop: RunningShop, name: str, *words: str) -> int | None:
    """Run a command to its end, and take its process from those that must end well. Returns its exit code."""
    process = command(shop, name, *words)
    eventually(lambda: not process.lives, otherwise=process.says)
    del shop.processes[name]
    return process.exit_code


def states(shop: RunningShop) -> Counter[str]:
    return Counter(dead_letter["state"] for dead_letter in shop.ask("dead_letters", service="orders"))


def fingerprint(shop: RunningShop) -> str:
    """Of the only group."""
    process = command(shop, "list", "dead_letters", "list", "--json")
    eventually(lambda: not process.lives, otherwise=process.says)
    del shop.processes["list"]
    (group,) = json.loads(process.says())
    return str(group["fingerprint"])


def look(page: Page, name: str) -> None:
    """Keep a picture of the page where ``SCREENSHOTS`` names a folder."""
    if folder := os.environ.get("SCREENSHOTS"):
        page.screenshot(path=Path(folder) / f"{name}.png", full_page=True)


def test_a_person_mends_a_group_in_the_browser(shop: RunningShop, page: Page) -> None:
    subjects = park(shop, 8)

    page.goto("/admin/orders/deadletter/")
    look(page, "dead_letters")
    page.click("text=By fingerprint")
    expect(page.locator("#groups")).to_contain_text("orders.record_capture")
    look(page, "groups")
    page.click("#groups th a")
    page.click("text=Send all again")
    expect(page.locator("#redrives")).to_contain_text("stopped")
    expect(page.locator("#redrives")).to_contain_text("was parked again: UnknownOrder")
    look(page, "group-stopped")

    mend(shop, subjects)
    page.fill("#id_rate", "50")
    page.fill("#id_why", "the orders are there now")
    page.click("text=Send all again")
    expect(page.locator("#none")).to_be_visible()
    expect(page.locator("#redrives tbody tr").first).to_contain_text("done")
    look(page, "group-done")
    assert states(shop) == {"resolved": 8}


def test_a_person_tries_out_edits_and_discards_dead_letters_in_the_browser(shop: RunningShop, page: Page) -> None:
    (subject,) = park(shop, 1)
    mend(shop, [subject])
    broken = event("payments.payment_captured.v1", subject=str(uuid4()), data={"amount": "much", "currency": "EUR"})
    with sender(shop) as messages:
        messages.send_event(event("payments.payment_voided.v1", subject=subject, data={"amount": "much"}))
        messages.send_event(broken)  # orders does not read the amount, so it fails as an unknown order
    eventually(lambda: states(shop)["parked"] == 3)

    page.goto("/admin/orders/deadletter/?event_type=payments.payment_captured.v1")
    page.click(f"tr:has-text('{subject[-8:].upper()}') .field-__str__ a")
    look(page, "dead_letter")
    page.click("text=Dry run")
    expect(page.locator("#verdict")).to_contain_text("Would take effect.")
    expect(page.locator("#content")).to_contain_text("captured_at")
    look(page, "dry-run")
    assert states(shop)["parked"] == 3
    page.click("text=Send again")
    expect(page.locator(".messagelist")).to_contain_text("1 dead letter was sent again.")
    eventually(lambda: states(shop)["resolved"] == 1)
    page.reload()
    expect(page.locator(".field-history_shown")).to_contain_text("took effect")
    look(page, "dead-letter-history")

    page.goto("/admin/orders/deadletter/?event_type=payments.payment_voided.v1")
    page.click("#result_list .field-__str__ a")
    page.click("text=Edit and send again")
    body = page.input_value("#id_body")
    page.fill("#id_body", body.replace('"much"', '"more"'))
    page.click("text=Save and send again")
    expect(page.locator(".errorlist")).to_contain_text('$.amount: type "integer"')
    look(page, "edit-refused")
    page.fill("#id_body", re.sub(r'"amount": "\w+"', '"amount": 0, "currency": "EUR"', body))
    page.click("text=Save and send again")
    expect(page.locator(".messagelist")).to_contain_text("The dead letter was changed and sent again.")
    eventually(lambda: states(shop)["resolved"] == 2)
    page.reload()
    page.click("summary:has-text('changes')")
    look(page, "dead-letter-edited")

    page.goto("/admin/orders/deadletter/?state__exact=parked")
    page.click("#result_list .field-__str__ a")
    page.fill("form[action$='/discard/'] [name=why]", "a test")
    page.click("input[value=Discard]")
    expect(page.locator(".messagelist")).to_contain_text("1 dead letter was discarded.")
    assert states(shop) == {"resolved": 2, "discarded": 1}


def test_a_group_goes_on_whoever_dies(shop: RunningShop) -> None:
    """The follower is interrupted, the worker is killed and started again: the timers go on to the end."""
    mend(shop, park(shop, 120))
    following = command(shop, "following", "dead_letters", "retry-group", "orders", fingerprint(shop), "--rate", "40")
    eventually(lambda: states(shop)["resolved"] >= 6, otherwise=following.says)

    os.kill(following.pid, signal.SIGTERM)
    eventually(lambda: not following.lives, otherwise=following.says)
    assert following.exit_code == 130
    assert "The redrive continues." in following.says()
    del shop.processes["following"]
    shop["worker-orders"].kill()
    shop.start("worker-orders")

    eventually(lambda: states(shop) == {"resolved": 120}, otherwise=lambda: states(shop))
    heard: list[Any] = shop.ask("heard", service="orders")
    assert len(heard) == len(set(heard)) == 120


def test_a_follower_ends_with_the_group(shop: RunningShop) -> None:
    subjects = park(shop, 10)
    group = fingerprint(shop)

    assert ended(shop, "too-early", "dead_letters", "retry-group", "orders", group) == 1
    mend(shop, subjects)
    assert ended(shop, "in-time", "dead_letters", "retry-group", "orders", group, "--rate", "50") == 0

    assert states(shop) == {"resolved": 10}
