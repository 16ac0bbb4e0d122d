"""A person with a real browser in front of the running shop: web, relays, workers and beat, each a process."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import urlencode
from urllib.request import Request, urlopen

import pytest
from playwright.sync_api import Browser, Page, expect

from tests.browser import ADD, PASSWORD, expect_status, fill_in, logged_in, open_web
from tests.processes import SERVICES, running_shop

pytestmark = [pytest.mark.processes, pytest.mark.slow]


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Where a whole shop answers."""
    with running_shop(tmp_path_factory.mktemp("shop"), ADMIN_PASSWORD=PASSWORD) as shop:
        names = [f"{kind}-{service}" for kind in ("relay", "worker") for service in SERVICES] + ["beat"]
        shop.start(*names)
        shop.started(*names)
        yield open_web(shop)
        assert all(process.lives for process in shop.processes.values())


@pytest.fixture
def page(browser: Browser, address: str) -> Iterator[Page]:
    """A fresh browser window, logged in."""
    with logged_in(browser, address) as page:
        yield page


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
    page.wait_for_timeout(2500)  # two and a half intervals: that nothing happens can't be waited for

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
