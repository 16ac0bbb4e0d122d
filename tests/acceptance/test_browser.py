"""A person with a real browser in front of the running shop: web, relays, workers and beat, each a process."""

import os
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.error import URLError
from urllib.parse import urlencode
from urllib.request import Request, urlopen
from uuid import uuid4

import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright

from tests.conftest import unavailable
from tests.processes import SERVICES, eventually, running_shop
from tests.servers import free_ports

pytestmark = pytest.mark.processes

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


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Where a whole shop answers."""
    (port,) = free_ports(1)
    with running_shop(tmp_path_factory.mktemp("shop"), ADMIN_PASSWORD=PASSWORD) as shop:
        prepare = shop.run("prepare", [sys.executable, "manage.py", "prepare"])
        eventually(lambda: not prepare.lives, otherwise=prepare.says)
        assert prepare.exit_code == 0, prepare.says()
        del shop.processes["prepare"]
        names = [f"{kind}-{service}" for kind in ("relay", "worker") for service in SERVICES] + ["beat"]
        shop.start(*names)
        shop.run("web", gunicorn(port))
        shop.started(*names)
        eventually(lambda: answers(f"http://127.0.0.1:{port}/healthz"), otherwise=shop["web"].says)
        yield f"http://127.0.0.1:{port}"
        assert all(process.lives for process in shop.processes.values())


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    if not CHROMIUM.exists():
        unavailable("Chromium", FileNotFoundError(CHROMIUM))
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=QUIETLY)
        yield browser
        browser.close()


@pytest.fixture
def page(browser: Browser, address: str) -> Iterator[Page]:
    """A fresh browser window, logged in. No script on any page may fail."""
    context = browser.new_context(base_url=address)
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
    except URLError:
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
    expect(page.locator("#progress .status")).to_have_text(status, timeout=PATIENCE)


def orders_of(page: Page, email: str) -> int:
    """How many orders the list finds for a customer."""
    page.goto(f"/admin/orders/order/?q={email}")
    return page.locator("#result_list tbody tr").count()


def test_an_order_is_added_and_moves_on_before_the_persons_eyes(page: Page) -> None:
    fill_in(page)
    page.click("text=Save")

    expect(page.locator(".messagelist")).to_contain_text("is placed.")
    expect(page.locator("#content-main")).to_contain_text("€25.00")
    expect_status(page, "completed")
    for event in ("orders.order_completed.v1", "payments.payment_captured.v1", "shipping.shipment_delivered.v1"):
        expect(page.locator("#progress")).to_contain_text(event)


def test_the_page_stops_looking_when_nothing_more_is_to_come(page: Page) -> None:
    fill_in(page)
    page.click("text=Save")
    expect_status(page, "completed")
    expect(page.locator("#progress[data-moving]")).to_have_count(0)

    looks: list[str] = []
    page.on("request", lambda request: looks.append(request.url))
    page.wait_for_timeout(2500)  # two and a half turns: that nothing happens can't be waited for

    assert looks == []


def test_a_declined_card_ends_the_order_and_says_why(page: Page) -> None:
    fill_in(page, token="tok_declined_funds")
    page.click("text=Save")

    expect_status(page, "cancelled")
    expect(page.locator("#progress")).to_contain_text("insufficient_funds")


def test_a_person_cancels_an_order_that_is_not_paid_for_yet(page: Page) -> None:
    fill_in(page, token="tok_down")
    page.click("text=Save")

    page.click("text=Cancel this order")
    page.click("text=Yes, cancel this order")

    expect(page.locator(".messagelist")).to_contain_text("is asked for.")
    expect_status(page, "cancelled")
    expect(page.locator("text=Cancel this order")).to_have_count(0)


def test_a_double_click_on_save_places_one_order(page: Page) -> None:
    email = fill_in(page)
    page.dblclick("text=Save")
    expect(page.locator(".messagelist")).to_contain_text("order", ignore_case=True)

    assert orders_of(page, email) == 1


def test_one_form_sent_eight_times_at_once_places_one_order(page: Page, address: str) -> None:
    email = fill_in(page)
    fields = page.evaluate("Object.fromEntries(new FormData(document.getElementById('order_form')))")
    body = urlencode(fields).encode()
    cookies = "; ".join(f"{cookie['name']}={cookie['value']}" for cookie in page.context.cookies())

    def send(_: int) -> str:
        request = Request(address + ADD, body, {"Cookie": cookies})
        with urlopen(request, timeout=60) as answer:
            return str(answer.url)

    with ThreadPoolExecutor(8) as pool:
        landed = set(pool.map(send, range(8)))

    assert len(landed) == 1
    assert orders_of(page, email) == 1
