"""A web process of the shop, and a person with a real browser in front of it."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.request import urlopen
from uuid import uuid4

from playwright.sync_api import Browser, Page, expect

from tests.processes import RunningShop, eventually
from tests.servers import free_ports

CHROMIUM = Path(os.environ.get("CHROMIUM", "/usr/bin/chromium"))
QUIETLY = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
    "--disable-quic",
]
PASSWORD = "for this test only"
ADD = "/admin/orders/order/add/"

#: Milliseconds: what a browser may wait for on a busy machine.
PATIENCE = 30_000
# Playwright's own five seconds are too short for a busy machine.
expect.set_options(timeout=PATIENCE)


def open_web(shop: RunningShop) -> str:
    """Make the admin account, start the web process, and tell where it answers."""
    prepare = shop.run("prepare", [sys.executable, "manage.py", "prepare"], ADMIN_PASSWORD=PASSWORD)
    eventually(lambda: not prepare.lives, otherwise=prepare.says)
    assert prepare.exit_code == 0, prepare.says()
    del shop.processes["prepare"]
    (port,) = free_ports(1)
    shop.run("web", gunicorn(port))
    eventually(lambda: answers(f"http://127.0.0.1:{port}/healthz"), otherwise=shop["web"].says)
    return f"http://127.0.0.1:{port}"


@contextmanager
def logged_in(browser: Browser, address: str, **options: Any) -> Iterator[Page]:
    """A fresh browser window, logged in. No script on any page may fail. ``options``: of the browser's context."""
    context = browser.new_context(base_url=address, **options)
    context.set_default_timeout(PATIENCE)
    page = context.new_page()
    failures: list[str] = []
    page.on("pageerror", lambda error: failures.append(str(error)))
    page.goto("/admin/")
    page.fill("#id_username", "admin")
    page.fill("#id_password", PASSWORD)
    page.click("text=Log in")
    yield page
    context.close()
    assert failures == []


def gunicorn(port: int) -> list[str]:
    command = [sys.executable, "-m", "gunicorn", "shop.wsgi", "--bind", f"127.0.0.1:{port}"]
    return [*command, "--threads", "8", "--no-control-socket"]


def answers(url: str) -> bool:
    try:
        with urlopen(url, timeout=5):
            return True
    except OSError:  # refused, or not in time
        return False


def fill_in(page: Page, token: str = "tok_approved") -> str:
    """Fill in the form for a new order up to Save. Returns the customer's e-mail address, which no other order has."""
    email = f"{uuid4()}@example.org"
    page.goto(ADD)
    page.fill("#id_customer_name", "Ada Example")
    page.fill("#id_customer_email", email)
    page.fill("#id_street", "Main Street 1")
    page.fill("#id_postal_code", "53111")
    page.fill("#id_city", "Bonn")
    page.select_option("#id_country", label="Germany")
    page.fill("#id_payment_token", token)
    page.click("#lines-0 .select2-selection")
    page.fill(".select2-search__field", "te")
    page.click(".select2-results__option >> text=Tea (€12.50)")
    page.fill("#id_lines-0-quantity", "2")
    return email


def expect_status(page: Page, status: str) -> None:
    """The page comes to say so by itself."""
    expect(page.locator("#progress .status")).to_have_text(status)
