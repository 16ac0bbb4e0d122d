"""Take the pictures of the README and the documentation: ``make screenshots``. A shop of its own runs for a minute."""

import sys
import tempfile
from pathlib import Path
from uuid import uuid4

from playwright.sync_api import Page, expect, sync_playwright

from tests.browser import CHROMIUM, PASSWORD, QUIETLY, answers, expect_status, fill_in, logged_in, open_web
from tests.processes import ROOT, SERVICES, RunningShop, eventually, running_shop
from tests.servers import free_ports
from tests.wire import event, sender

IMAGES = ROOT / "docs" / "images"
#: Payment tokens of the orders on the pictures, and how each ends. The last one is shown.
ORDERS = {"tok_approved": "completed", "tok_declined_funds": "cancelled", "tok_fails_twice": "completed"}
WINDOW = {"width": 1280, "height": 860}
PHONE = {"width": 390, "height": 844}


def main() -> None:
    IMAGES.mkdir(exist_ok=True)
    everyone = (*SERVICES, "journal")
    with (
        tempfile.TemporaryDirectory() as folder,
        running_shop(
            Path(folder) / "shop",
            ADMIN_PASSWORD=PASSWORD,
            SHOP_SERVICES=",".join(everyone),
            SANDBOX_DELIVERY_SECONDS="2",
        ) as shop,
    ):
        (port,) = free_ports(1)
        names = [f"{kind}-{service}" for kind in ("relay", "worker") for service in everyone] + ["beat"]
        flower = [sys.executable, "-m", "celery", "-A", "shop", "flower", "--address=127.0.0.1", f"--port={port}"]
        columns = "--tasks_columns=name,state,result,received,runtime,worker"
        shop.run("flower", [*flower, columns])
        shop.start(*names)
        shop.started(*names)
        eventually(lambda: answers(f"http://127.0.0.1:{port}/"))
        address = open_web(shop)
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path=CHROMIUM, args=QUIETLY)
            with logged_in(browser, address, viewport=WINDOW) as page:
                for token, end in ORDERS.items():
                    fill_in(page, token)
                    page.click("text=Save")
                    expect_status(page, end)
                expect(page.locator("#progress[data-moving]")).to_have_count(0)
                page.locator("#progress").scroll_into_view_if_needed()
                page.screenshot(path=IMAGES / "order.png", full_page=True)
                page.click("text=Its flow")
                flow = page.url
                expect(page.locator("h1 .mark")).to_have_text("ended")
                page.screenshot(path=IMAGES / "flow.png", full_page=True)
                _map(page, "map.png")
                _trouble(shop, page)
            with logged_in(browser, address, viewport=PHONE, color_scheme="dark") as page:
                page.goto(flow)
                page.screenshot(path=IMAGES / "flow-phone.png")
            page = browser.new_page(viewport=WINDOW)  # type: ignore[arg-type]
            page.goto(f"http://127.0.0.1:{port}/tasks")
            expect(page.locator("#tasks-table tbody tr").nth(8)).to_be_visible()
            page.screenshot(path=IMAGES / "flower.png")
            browser.close()


def _map(page: Page, name: str) -> None:
    page.goto("/")
    expect(page.locator("#now")).to_contain_text("The shop works")
    page.screenshot(path=IMAGES / name)


def _trouble(shop: RunningShop, page: Page) -> None:
    """A worker that has stopped, and a delivery that is parked."""
    subject = str(uuid4())
    with sender(shop) as messages:
        messages.send_event(
            event("payments.payment_captured.v1", subject=subject, data={"amount": 2500, "currency": "EUR"})
        )
    shop.end("worker-payments")
    page.goto("/")
    expect(page.locator(".banner")).to_contain_text("1 delivery to orders is parked")
    expect(page.locator(".banner")).to_contain_text("no worker of payments")
    page.screenshot(path=IMAGES / "map-trouble.png")
    page.goto(f"/flows/{subject}/")
    expect(page.locator(".banner")).to_contain_text("could not handle")
    page.screenshot(path=IMAGES / "flow-parked.png")


if __name__ == "__main__":
    main()
