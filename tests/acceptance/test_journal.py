"""A person follows orders in a real browser, finds what is wrong on the map, and mends it. Every part is a process."""

import re
import time
from collections.abc import Iterator
from itertools import product
from typing import Literal
from uuid import uuid4

import pytest
from axe_playwright_python.sync_playwright import Axe
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span
from playwright.sync_api import Browser, Page, expect

from tests.browser import PASSWORD, expect_status, fill_in, logged_in, open_web
from tests.processes import SERVICES, RunningShop, eventually, running_shop
from tests.receiver import Receiver, receiver
from tests.wire import event, sender

pytestmark = [pytest.mark.processes, pytest.mark.slow]

NAMES = [f"{kind}-{service}" for kind in ("relay", "worker") for service in (*SERVICES, "journal")] + ["beat"]
PAGES = (
    "/",
    "/flows/",
    "/latency/",
    "/reconciliation/",
    "/reactions/",
    "/contracts/",
    "/contracts/orders.order_placed.v1/",
)
SCHEMES: tuple[Literal["light", "dark"], ...] = ("light", "dark")
#: Of a browser's window, in pixels: a desktop and a phone.
WIDTHS = (1280, 390)


@pytest.fixture(scope="module")
def collector() -> Iterator[Receiver]:
    """Where the shop sends its traces."""
    with receiver() as collector:
        yield collector


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory, collector: Receiver) -> Iterator[RunningShop]:
    """A whole shop that keeps a journal, and exports flows as traces."""
    traces = {"JOURNAL_TRACES": "true", "OTEL_EXPORTER_OTLP_ENDPOINT": collector.url, "OTEL_BSP_SCHEDULE_DELAY": "200"}
    services = ",".join((*SERVICES, "journal"))
    folder = tmp_path_factory.mktemp("shop")
    with running_shop(folder, ADMIN_PASSWORD=PASSWORD, SHOP_SERVICES=services, **traces) as shop:
        shop.start(*NAMES)
        shop.started(*NAMES)
        yield shop


@pytest.fixture(scope="module")
def address(shop: RunningShop) -> str:
    return open_web(shop)


@pytest.fixture
def page(browser: Browser, address: str) -> Iterator[Page]:
    """A fresh browser window, logged in."""
    with logged_in(browser, address) as page:
        yield page


def test_a_person_watches_an_order_until_it_has_ended(shop: RunningShop, page: Page) -> None:
    order = shop.place()
    opened(page, order)

    expect(page.locator("h1 .mark")).to_have_text("ended")
    expect(page.locator("svg.sequence")).to_contain_text("order_completed")
    expect(page.locator("[hx-trigger]")).to_have_count(0)
    page.locator("svg.sequence a text", has_text="payment_authorized").click()
    assert re.search(r"#event-[0-9a-f]{12}$", page.url)


def test_one_trace_leads_from_the_request_that_placed_the_order_to_its_end(
    shop: RunningShop, page: Page, collector: Receiver
) -> None:
    fill_in(page)
    page.click("text=Save >> nth=0")
    expect_status(page, "completed")

    def trace() -> dict[str, Span]:
        """The spans of the newest trace that a form has begun, by name."""
        found = [*spans(collector)]
        forms = [span.trace_id for span in found if span.name == "POST admin/orders/order/add/"]
        return {span.name: span for span in found if span.trace_id in forms[-1:]}

    eventually(lambda: "publish orders.order_completed.v1" in trace(), within=60, otherwise=lambda: [*trace()])
    placed, form = trace()["publish orders.order_placed.v2"], trace()["POST admin/orders/order/add/"]
    assert placed.parent_span_id == form.span_id
    assert form.parent_span_id == b""
    assert form.kind == Span.SPAN_KIND_SERVER


def spans(collector: Receiver) -> Iterator[Span]:
    for body in collector.bodies:
        for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
            for scope in resource.scope_spans:
                yield from scope.spans


def test_a_declined_card_shows_how_it_ended(shop: RunningShop, page: Page) -> None:
    opened(page, shop.place("tok_declined_funds"))

    expect(page.locator("h1 .mark")).to_have_text("ended")
    expect(page.locator("svg.sequence .compensation")).not_to_have_count(0)
    expect(page.locator("#story")).to_contain_text("order_cancelled")


def test_attempts_that_failed_are_shown(shop: RunningShop, page: Page) -> None:
    opened(page, shop.place("tok_fails_twice"))

    expect(page.locator("h1 .mark")).to_have_text("ended")
    expect(page.locator("svg.sequence .note.retried")).to_have_count(2)


def test_a_page_works_without_scripts(shop: RunningShop, browser: Browser, address: str) -> None:
    order = shop.place()
    shop.wait_until_all_end()
    with logged_in(browser, address, java_script_enabled=False) as page:
        page.goto(f"/flows/{order}/")
        expect(page.locator("svg.sequence")).to_contain_text("order_completed")
        page.goto("/")
        expect(page.locator("#now")).to_contain_text("Latest flows")


def test_the_map_names_a_worker_that_has_stopped(shop: RunningShop, page: Page) -> None:
    page.goto("/")
    expect(page.locator("#now")).to_contain_text("The shop works")

    shop.end("worker-payments")
    try:
        expect(page.locator(".banner.bad")).to_contain_text("no worker of payments takes messages", timeout=15_000)
        expect(page.locator(".card.bad h2")).to_have_text(["payments"])
    finally:
        shop.start("worker-payments")
        shop.started("worker-payments")
    expect(page.locator("#now")).to_contain_text("The shop works")


def test_what_is_parked_is_found_on_the_map_mended_and_sent_again(shop: RunningShop, page: Page) -> None:
    subject = str(uuid4())
    broken = event("payments.payment_captured.v1", subject=subject, data={"amount": 2500, "currency": "EUR"})
    with sender(shop) as messages:
        messages.send_event(broken)

    page.goto("/")
    page.click("text=1 delivery to orders is parked")
    page.click("#result_list .field-__str__ a")
    expect(page.locator("#content-main")).to_contain_text("UnknownOrder")
    page.goto(f"/flows/{subject}/")
    expect(page.locator(".banner.bad")).to_contain_text("orders.record_capture could not handle payment_captured")
    page.click("text=Mend it and send it again")
    page.click("#result_list .field-__str__ a")
    page.fill("form[action$='/discard/'] [name=why]", "no such order")
    page.click("input[value=Discard]")

    page.goto(f"/flows/{subject}/")
    expect(page.locator("#story")).to_contain_text("by admin")
    expect(page.locator("#story .mark", has_text="discarded")).to_have_count(1)


def test_a_parked_message_is_edited_from_the_page_of_its_flow_and_takes_effect(shop: RunningShop, page: Page) -> None:
    order = shop.place()
    shop.wait_until_all_end()
    with sender(shop) as messages:
        messages.send_event(event("shipping.shipment_dispatched.v1", subject=str(order), data={"parcel": 7}))

    page.goto(f"/flows/{order}/")
    banner = page.locator(".banner.bad")
    eventually(lambda: page.reload() and banner.count() == 1, 30, page.content)
    expect(banner).to_contain_text("orders.record_dispatch could not handle shipment_dispatched")
    page.click("text=Mend it and send it again")
    page.click("#result_list .field-__str__ a")
    page.click("text=Edit and send again")
    page.click("input[value='Save and send again']")
    expect(page.locator(".errorlist")).to_contain_text('parcel: type "string"')
    body = page.locator("[name=body]")
    body.fill(body.input_value().replace('"parcel": 7', '"parcel": "PAR-7"'))
    page.fill("[name=why]", "a typing mistake")
    page.click("input[value='Save and send again']")

    expect(page.locator(".messagelist")).to_contain_text("The dead letter was changed and sent again.")
    state = page.locator(".field-state_shown")
    eventually(lambda: page.reload() and "resolved" in state.inner_text(), 30, state.inner_text)
    expect(page.locator(".field-history_shown")).to_contain_text("a typing mistake")
    page.goto(f"/flows/{order}/")
    eventually(lambda: page.reload() and banner.count() == 0, 30, page.content)


def test_events_are_found_while_a_person_types(page: Page) -> None:
    page.goto("/contracts/")
    expect(page.locator("#found tbody tr")).not_to_have_count(1)

    page.locator("#words").press_sequentially("carrier's name", delay=5)

    expect(page.locator("#found tbody tr")).to_have_count(2)
    page.click("text=shipping.shipment_dispatched.v1")
    expect(page.locator("h1")).to_contain_text("shipping.shipment_dispatched.v1")


def test_everybody_can_use_the_pages(shop: RunningShop, page: Page) -> None:
    order = shop.place("tok_fails_twice")
    shop.wait_until_all_end()
    for scheme, path in product(SCHEMES, (*PAGES, f"/flows/{order}/", "/flows/unknown/")):
        page.emulate_media(color_scheme=scheme)
        page.goto(path)
        for width in WIDTHS:
            page.set_viewport_size({"width": width, "height": 844})
            where = f"{path} ({scheme}, {width} pixels)"
            found = Axe().run(page)
            assert found.violations_count == 0, f"{where}: {found.generate_report()}"
            assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth"), f"{where} is too wide"


def test_the_keyboard_reaches_everything(shop: RunningShop, page: Page) -> None:
    order = shop.place()
    shop.wait_until_all_end()
    opened(page, order)
    expect(page.locator("h1 .mark")).to_have_text("ended")

    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    seen = set()
    for _ in range(60):
        page.keyboard.press("Tab")
        seen.add(page.evaluate("document.activeElement.tagName.toLowerCase()"))
    assert {"a", "input", "button", "summary", "div"} <= seen


def opened(page: Page, order: str) -> None:
    """The page of an order's flow, as soon as the journal has heard of it."""

    def is_known() -> bool:
        response = page.goto(f"/flows/{order}/")
        return response is not None and response.ok

    eventually(is_known)


def test_a_stall_is_marked_within_a_minute_with_who_must_act(
    tmp_path_factory: pytest.TempPathFactory, rabbitmq_url: str, namespace: str
) -> None:
    settings = {"SHOP_SERVICES": ",".join((*SERVICES, "journal")), "BROKER_URL": rabbitmq_url}
    folder = tmp_path_factory.mktemp("stalls")
    with running_shop(folder, CHOREOGRAPHY_NAMESPACE=namespace, **settings) as shop:
        shop.start(*NAMES)
        shop.started(*NAMES)
        shop.end("worker-shipping")
        purged = shop.place()
        with sender(shop) as messages:
            eventually(lambda: messages.size("shipping") >= 2)
            messages.purge("shipping")
        shop.start("worker-shipping")
        shop.end("worker-orders")
        without_worker = shop.place("tok_declined_funds")
        eventually(lambda: "payments.authorize_payment" in shop.ask("told_of", flow=without_worker))
        shop.end("relay-payments")
        without_relay = shop.place()
        placed_at = time.monotonic()

        expected = {
            purged: "the message did not reach shipping: its queue was purged or is not bound",
            without_worker: "no worker of orders takes messages",
            without_relay: "the relay of payments does not run",
        }
        eventually(lambda: len(shop.ask("marks")) == len(expected), within=75, otherwise=lambda: shop.ask("marks"))
        marks = shop.ask("marks")

    assert time.monotonic() - placed_at < 60
    for order, why in expected.items():
        assert why in marks[order], marks[order]
