"""Take the pictures of the README: ``python -m docs.screenshots``. A shop of its own runs for half a minute."""

import sys
import tempfile
from pathlib import Path

from playwright.sync_api import expect, sync_playwright

from tests.browser import CHROMIUM, PASSWORD, QUIETLY, answers, expect_status, fill_in, logged_in, open_web
from tests.processes import ROOT, SERVICES, eventually, running_shop
from tests.servers import free_ports

IMAGES = ROOT / "docs" / "images"
#: Payment tokens of the orders on the pictures, and how each ends. The last one is shown.
ORDERS = {"tok_approved": "completed", "tok_declined_funds": "cancelled", "tok_fails_twice": "completed"}
WINDOW = {"width": 1280, "height": 860}


def main() -> None:
    IMAGES.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as folder, running_shop(Path(folder) / "shop", ADMIN_PASSWORD=PASSWORD) as shop:
        (port,) = free_ports(1)
        names = [f"{kind}-{service}" for kind in ("relay", "worker") for service in SERVICES] + ["beat"]
        flower = [sys.executable, "-m", "celery", "-A", "shop", "flower", "--address=127.0.0.1", f"--port={port}"]
        columns = "--tasks_columns=name,state,result,received,runtime,worker"
        shop.run("flower", [*flower, columns])
        shop.start(*names)
        shop.started(*names)
        eventually(lambda: answers(f"http://127.0.0.1:{port}/"))
        address = open_web(shop)
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path=CHROMIUM, args=QUIETLY)
            with logged_in(browser, address) as page:
                page.set_viewport_size(WINDOW)  # type: ignore[arg-type]
                for token, end in ORDERS.items():
                    fill_in(page, token)
                    page.click("text=Save")
                    expect_status(page, end)
                expect(page.locator("#progress[data-moving]")).to_have_count(0)
                page.locator("#progress").scroll_into_view_if_needed()
                page.screenshot(path=IMAGES / "order.png", full_page=True)
            page = browser.new_page(viewport=WINDOW)  # type: ignore[arg-type]
            page.goto(f"http://127.0.0.1:{port}/tasks")
            expect(page.locator("#tasks-table tbody tr").nth(8)).to_be_visible()
            page.screenshot(path=IMAGES / "flower.png")
            browser.close()


if __name__ == "__main__":
    main()
