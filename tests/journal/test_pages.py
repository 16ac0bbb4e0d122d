"""The journal's pages: who may see them, what they say, what they cost."""

import csv
import io
import json
import uuid
from datetime import UTC, datetime, timedelta
from html.parser import HTMLParser
from xml.etree import ElementTree

import pytest
from django.db import connections
from django.test import Client
from django.test.utils import CaptureQueriesContext

from choreography.broker.topology import Waiting
from choreography.dead_letters.actions import By, discard
from choreography.events.reports import PauseReport
from choreography.outbox.reports import report_pause
from choreography.testing import override
from journal import culprits
from journal.models import Entry, Flow, Pause, ServiceStatus
from journal.services import PAGE
from orders.models import Order
from tests.shop_in_a_box import Shop
from tests.unit.orders.admin_pages import log_in

SVG = "{http://www.w3.org/2000/svg}"


@pytest.fixture(autouse=True)
def queues(monkeypatch: pytest.MonkeyPatch) -> dict[str, Waiting | None]:
    """What is seen of the services' queues: by default a worker, and nothing that waits."""
    seen: dict[str, Waiting | None] = {}
    monkeypatch.setattr(culprits, "look_at_queue", lambda service: seen.get(service, Waiting(0, 1)))
    return seen


@pytest.fixture
def viewer(client: Client) -> Client:
    """Someone who may view flows, without what is personal in them."""
    log_in(client, "journal.view_flow")
    return client


def placed(shop: Shop, token: str = "tok_approved", street: str = "Main Street 1") -> Order:
    order = shop.place(token, street)
    shop.settle_at_once()
    return order


def page(client: Client, url: str, status: int = 200) -> str:
    response = client.get(url)
    assert response.status_code == status, response.content[:500]
    return response.content.decode()


# Who may see them


@pytest.mark.parametrize(
    "url", ["/flows/", "/flows.csv", "/flows/x/", "/flows/x.json", "/flows/x.svg", "/latency/", "/reconciliation/"]
)
def test_a_stranger_is_led_to_the_login(client: Client, url: str) -> None:
    response = client.get(url)

    assert response.status_code == 302
    assert response.headers["Location"].startswith("/admin/login/")


def test_staff_needs_the_permission(client: Client) -> None:
    log_in(client, "orders.view_order")

    page(client, "/flows/", 403)


def test_personal_data_is_masked_without_the_permission(shop: Shop, viewer: Client) -> None:
    order = placed(shop)

    for url in (f"/flows/{order.pk}/", f"/flows/{order.pk}.json"):
        text = page(viewer, url)
        assert "Main Street 1" not in text
        assert "Ada Example" not in text
        assert "***" in text


def test_who_has_the_permission_sees_personal_data(shop: Shop, client: Client) -> None:
    order = placed(shop)
    log_in(client, "journal.view_flow", "journal.view_personal")

    assert "Main Street 1" in page(client, f"/flows/{order.pk}/")


# A flow


def test_a_flow_tells_every_event_and_reaction(shop: Shop, viewer: Client) -> None:
    order = placed(shop)

    text = page(viewer, f"/flows/{order.pk}/")

    for name in ("order_placed", "authorize_payment", "plan_shipment", "shipment_delivered", "order_completed"):
        assert name in text
    assert "Something is wrong" not in text


def test_a_flow_that_has_ended_refreshes_no_more(shop: Shop, viewer: Client) -> None:
    order = shop.place()
    shop.relay("orders")
    shop.hear_all("journal")
    assert 'hx-trigger="every 2s"' in page(viewer, f"/flows/{order.pk}/")

    shop.settle_at_once()

    assert "hx-trigger" not in page(viewer, f"/flows/{order.pk}/")
    polled = viewer.get(f"/flows/{order.pk}/?version=old", headers={"HX-Request": "true"})
    assert polled.status_code == 286
    assert b"<html" not in polled.content


def test_a_flow_is_found_by_its_number(shop: Shop, viewer: Client) -> None:
    order = placed(shop)

    response = viewer.get(f"/flows/{order.number.lower()}/")

    assert response.headers["Location"] == f"/flows/{order.pk}/"


@pytest.mark.parametrize("name", ["table/7?x=1#é", "two\r\nlines", "7.json", "a/", " "], ids=ascii)
def test_a_flow_may_have_any_name(viewer: Client, name: str) -> None:
    at = datetime(2026, 1, 1, tzinfo=UTC)
    Flow.objects.create(id=name, number="7X1", started_at=at, last_at=at)

    [link] = [line for line in page(viewer, "/flows/").splitlines() if "7X1" in line]
    url = link.partition('href="')[2].partition('"')[0]

    assert "7X1" in page(viewer, url)
    assert json.loads(page(viewer, f"{url[:-1]}.json"))["flow"] == name


def test_every_event_comes_after_the_one_that_caused_it(viewer: Client) -> None:
    at = datetime(2026, 1, 1, tzinfo=UTC)
    flow = Flow.objects.create(id="chain", number="CHA1N", started_at=at, last_at=at)
    ids = [uuid.UUID(int=number) for number in range(1, 2001)]
    Entry.objects.bulk_create(
        Entry(
            event_id=own,
            flow=flow.pk,
            type="a.b_c.v1",
            source="a",
            subject="s",
            caused_by=str(cause),
            body="{}",
            announced_at=at - timedelta(seconds=own.int),
        )
        for own, cause in zip(ids, [ids[-1], *ids], strict=False)
    )

    told = json.loads(page(viewer, "/flows/chain.json"))["events"]

    assert [event["id"] for event in told] == [str(each) for each in ids]


def test_an_unknown_flow_is_said_to_be_unknown(viewer: Client) -> None:
    text = page(viewer, "/flows/%3Cscript%3E/", 404)

    assert "heard nothing of &lt;script&gt;" in text


def test_the_diagram_has_a_lane_for_each_service_and_an_arrow_for_each_event(shop: Shop, viewer: Client) -> None:
    order = placed(shop, "tok_fails_twice")

    drawing = ElementTree.fromstring(page(viewer, f"/flows/{order.pk}.svg"))

    texts = [text.text for text in drawing.iter(f"{SVG}text")]
    assert [text for text in texts if text in ("outside", "orders", "payments", "shipping")] == [
        "outside",
        "orders",
        "payments",
        "shipping",
    ]
    arrows = [group for group in drawing.iter(f"{SVG}g") if (group.get("class") or "").startswith("arrow")]
    assert len(arrows) == Entry.objects.filter(flow=str(order.pk)).count()
    assert sum((text or "").startswith("authorize_payment retried, again after") for text in texts) == 2


def test_what_failed_and_what_came_of_it_are_drawn_when_they_were(shop: Shop, viewer: Client) -> None:
    order = placed(shop, "tok_fails_twice")

    drawing = ElementTree.fromstring(page(viewer, f"/flows/{order.pk}.svg"))

    rows = sorted((float(text.get("y") or 0), text.text or "") for text in drawing.iter(f"{SVG}text"))
    said = [text.partition(", again")[0] for _, text in rows]
    steps = [text for text in said if text in ("authorize_payment retried", "authorize_payment", "payment_authorized")]
    assert steps == ["authorize_payment retried"] * 2 + ["authorize_payment", "payment_authorized"]
    assert said.index("plan_shipment") < said.index("authorize_payment"), "it was done while payments waited"


def test_compensation_is_drawn_in_a_style_of_its_own(shop: Shop, viewer: Client) -> None:
    order = placed(shop, street="Undeliverable Street 1")

    drawing = page(viewer, f"/flows/{order.pk}.svg")

    assert 'class="arrow compensation"' in drawing


def test_what_is_parked_is_said_with_what_mends_it(shop: Shop, viewer: Client) -> None:
    with override("payments.authorize_payment", function=authorize_payment):
        order = placed(shop)

    text = page(viewer, f"/flows/{order.pk}/")

    assert "payments.authorize_payment could not handle order_placed: ZeroDivisionError" in text
    event = Entry.objects.get(type="orders.order_placed.v2").event_id
    link = f"/flows/dead-letters/payments/{event}/"
    assert link in text
    assert viewer.get(link).headers["Location"] == f"/admin/payments/deadletter/?q={event}"
    assert 'class="box parked"' in text

    discard(shop.dead_letters("payments")[0], By("ada", "no use"))
    shop.settle_at_once()
    assert "by ada" in page(viewer, f"/flows/{order.pk}/")


def test_what_waits_is_drawn_with_its_next_attempt(shop: Shop, viewer: Client, gateway: type) -> None:
    gateway.down = True  # type: ignore[attr-defined]
    order = shop.place()
    shop.drain()

    text = page(viewer, f"/flows/{order.pk}/")

    assert "next attempt in" in text
    assert 'class="box retrying"' in text
    assert "payment_authorized or payment_declined" in text, "what is expected"


def test_a_program_reads_the_same(shop: Shop, viewer: Client) -> None:
    order = placed(shop)

    story = json.loads(page(viewer, f"/flows/{order.pk}.json"))

    assert (story["flow"], story["end"]) == (str(order.pk), "orders.order_completed.v1")
    [first, *_] = story["events"]
    assert first["type"] == "orders.order_placed.v2"
    assert {handling["reaction"]: handling["standing"] for handling in first["handlings"]} == {
        "payments.authorize_payment": "done",
        "shipping.plan_shipment": "done",
    }
    assert first["handlings"][0]["outcomes"][0]["attempt"] == 1


# All flows


def test_flows_are_found_by_what_people_know(shop: Shop, client: Client) -> None:
    log_in(client, "journal.view_flow", "journal.view_personal")
    order, other = placed(shop), placed(shop, "tok_declined_funds")
    parcel = shop.order(order).parcel

    for words in (order.number, order.number.lower(), str(order.pk), parcel, parcel.lower()):
        found = page(client, f"/flows/?list=1&q={words}")
        assert order.number in found
        assert other.number not in found, words


def test_a_search_that_names_one_flow_leads_to_it(shop: Shop, viewer: Client) -> None:
    order = placed(shop)

    assert viewer.get(f"/flows/?q={order.number}").headers["Location"] == f"/flows/{order.pk}/"


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ("state=ended", {"completed", "declined"}),
        ("state=running", set()),
        ("state=parked", set()),
        ("type=payments.payment_declined.v1", {"declined"}),
        ("service=payments", {"completed", "declined"}),
        ("since=2026-01-01T00:00:01", set()),
        ("until=2025-12-31", set()),
        ("since=2025-12-31&until=2026-01-02", {"completed", "declined"}),
        ("since=yesterday", {"completed", "declined"}),
    ],
)
def test_flows_are_filtered(shop: Shop, viewer: Client, query: str, found: set[str]) -> None:
    orders = {"completed": shop.place(), "declined": shop.place("tok_declined_funds")}
    shop.settle_at_once()

    text = page(viewer, f"/flows/?{query}")

    assert {name for name, order in orders.items() if order.number in text} == found
    assert ("is no date" in text) == ("yesterday" in query)


def test_pages_follow_one_another_without_gap_or_repetition(viewer: Client) -> None:
    flows = [a_flow(number) for number in range(2 * PAGE + 3)]
    seen: list[str] = []
    url = "/flows/?state=ended"
    while url:
        response = viewer.get(url)
        seen += [flow.pk for flow in response.context["page"].flows]
        following = response.context["next"]
        url = f"/flows/?{following}" if following else ""

    assert seen == [flow.pk for flow in reversed(flows)]


def test_a_page_of_another_list_is_refused(viewer: Client) -> None:
    assert "is none of this list" in page(viewer, "/flows/?after=nonsense")


def test_a_spreadsheet_gets_the_same(viewer: Client) -> None:
    a_flow(1)
    Flow.objects.create(
        id="=1+1", number="11", started_at=datetime(2026, 1, 1, tzinfo=UTC), last_at=datetime(2026, 1, 1, tzinfo=UTC)
    )

    response = viewer.get("/flows.csv")
    rows = [*csv.reader(io.StringIO(b"".join(response.streaming_content).decode()))]  # type: ignore[attr-defined]

    assert rows[0][0] == "flow"
    assert {row[0] for row in rows[1:]} == {"'=1+1", "flow-0001"}


# The map


def test_the_map_says_that_the_shop_works(shop: Shop, viewer: Client) -> None:
    placed(shop)
    alive(shop)

    assert "The shop works" in page(viewer, "/")


def test_the_map_says_what_the_journal_itself_has_parked(shop: Shop, viewer: Client) -> None:
    for count, told in (
        (1, "1 delivery to journal is parked</a>: mend it and send it again"),
        (2, "2 deliveries to journal are parked</a>: mend them and send them again"),
    ):
        shop.send("journal", b"rubbish %d" % count)
        shop.drain()

        assert told in page(viewer, "/")


def test_the_map_says_what_does_not_work(shop: Shop, viewer: Client, queues: dict[str, Waiting | None]) -> None:
    placed(shop)
    alive(shop)
    queues["payments"] = Waiting(3, 0)
    queues["shipping"] = None

    text = page(viewer, "/")

    assert "no worker of payments takes messages, and 3 wait" in text
    assert "the queue of shipping is missing" in text
    assert "The shop works" not in text


def test_the_map_says_what_a_service_pauses_for_until_it_goes_on(
    shop: Shop, viewer: Client, queues: dict[str, Waiting | None]
) -> None:
    order, since = without(shop, "payments"), shop.time.now()
    queues["payments"] = Waiting(1, 0)
    shop.time.advance(7)
    pauses(shop, since)
    alive(shop)

    text, flow = page(viewer, "/"), page(viewer, f"/flows/{order.pk}/")

    assert "payments pauses for 7.0 s: payment gateway is down (GatewayDown: no answer), and 1 wait" in text
    assert "no worker" not in text
    assert "paused" in flow
    assert "payments pauses: payment gateway is down (GatewayDown: no answer)" in flow

    pauses(shop, since, is_over=True)

    assert "pauses" not in page(viewer, "/")
    assert "paused" not in page(viewer, f"/flows/{order.pk}/")


def test_the_map_says_everything_that_a_service_pauses_for(
    shop: Shop, viewer: Client, queues: dict[str, Waiting | None]
) -> None:
    order, since = without(shop, "payments"), shop.time.now()
    queues["payments"] = Waiting(1, 0)
    shop.time.advance(7)
    pauses(shop, since + timedelta(seconds=3), dependency="database", error="OperationalError: no route")
    pauses(shop, since)
    alive(shop)

    text, flow = page(viewer, "/"), page(viewer, f"/flows/{order.pk}/")

    both = "payment gateway is down (GatewayDown: no answer); database is down (OperationalError: no route)"
    assert f"payments pauses for 7.0 s: {both}, and 1 wait" in text
    assert f"payments pauses: {both}" in flow


def test_no_text_of_the_diagram_is_cut_off(shop: Shop, viewer: Client) -> None:
    order = without(shop, "payments")
    pauses(shop, shop.time.now())

    drawing = ElementTree.fromstring(page(viewer, f"/flows/{order.pk}.svg"))

    beside = [text for text in drawing.iter(f"{SVG}text") if text.get("text-anchor") != "middle"]
    assert any("payment gateway is down" in (text.text or "") for text in beside)
    for text in beside:
        assert int(text.get("x", "")) + 6 * len(text.text or "") <= int(drawing.get("width", "")), text.text


def test_a_pause_ends_with_the_worker_that_was_killed_meanwhile(shop: Shop, viewer: Client) -> None:
    pauses(shop, shop.time.now())
    shop.time.advance(16)

    assert "pauses" not in page(viewer, "/")


def test_old_news_of_a_pause_do_not_bring_it_back(shop: Shop) -> None:
    since = shop.time.now()
    shop.time.advance(5)
    pauses(shop, since)
    pauses(shop, since, at=since)
    assert Pause.objects.get().seen_at == shop.time.now()

    pauses(shop, since, at=since, is_over=True)
    assert Pause.objects.exists(), "it goes on since"


def pauses(
    shop: Shop,
    since: datetime,
    *,
    at: datetime | None = None,
    is_over: bool = False,
    dependency: str = "payment gateway",
    error: str = "GatewayDown: no answer",
) -> None:
    """A worker of payments tells that it pauses, or that it goes on."""
    error = "" if is_over else error
    pause = PauseReport(dependency=dependency, error=error, since=since, at=at or shop.time.now(), is_over=is_over)
    report_pause("payments", pause)
    shop.relay("payments")
    shop.hear_all("journal")


def without(shop: Shop, service: str) -> Order:
    """An order of which one service has not handled anything."""
    order = shop.place()
    shop.services.remove(service)
    shop.settle_at_once()
    shop.services.append(service)
    return order


def test_the_map_counts_events_by_the_minute(shop: Shop, viewer: Client) -> None:
    placed(shop)
    placed(shop)
    shop.time.advance(10)
    shop.tick("journal.count_minutes")
    alive(shop)

    shown = viewer.get("/").context["map"]

    placed_events = next(event for event in shown.events if event.type == "orders.order_placed.v2")
    assert sum(placed_events.counts) == 2
    assert placed_events.readers == ("payments", "shipping")
    assert {(edge.source.service, edge.target.service) for edge in shown.edges} >= {("orders", "payments")}


def test_somebody_without_the_permission_has_a_plain_home_page(client: Client) -> None:
    log_in(client, "orders.view_order")

    assert "The shop works" not in page(client, "/")


# Latency


@pytest.mark.parametrize("span", ["hour", "day", "week", "century"])
def test_latency_has_a_chart_for_flows_and_hops(shop: Shop, viewer: Client, span: str) -> None:
    placed(shop)
    shop.time.advance(10)
    shop.tick("journal.count_minutes")

    text = page(viewer, f"/latency/?span={span}")

    assert "orders.order_completed.v1" in text
    assert "payments.authorize_payment" in text
    assert "p95" in text


# What they cost


@pytest.mark.parametrize("url", ["/", "/flows/", "/flows/?state=ended&service=payments", "/flows/{flow}/", "/latency/"])
def test_a_page_takes_twelve_queries_at_most(shop: Shop, viewer: Client, url: str) -> None:
    orders = [placed(shop) for _ in range(3)]
    alive(shop)

    with CaptureQueriesContext(connections["journal"]) as queries:
        page(viewer, url.format(flow=orders[0].pk))

    assert len(queries) <= 12


# Marked up so that everybody can use them


@pytest.mark.parametrize("url", ["/", "/flows/", "/flows/{flow}/", "/latency/", "/reconciliation/", "/reactions/"])
def test_no_id_is_used_twice_and_nothing_comes_from_elsewhere(shop: Shop, viewer: Client, url: str) -> None:
    order = placed(shop, "tok_fails_twice")
    alive(shop)
    found = Marks()

    found.feed(page(viewer, url.format(flow=order.pk)))

    assert len(found.ids) == len(set(found.ids))
    assert [source for source in found.sources if source.startswith(("http", "//"))] == []
    assert found.styles == 0


class Marks(HTMLParser):
    """What a page is made of."""

    def __init__(self) -> None:
        super().__init__()
        self.ids: list[str] = []
        self.sources: list[str] = []
        self.styles = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        if given.get("id"):
            self.ids.append(str(given["id"]))
        if tag in ("script", "link", "img"):
            self.sources.append(str(given.get("src") or given.get("href")))
        self.styles += "style" in given or tag == "style"


def alive(shop: Shop) -> None:
    for service in ("orders", "payments", "shipping"):
        ServiceStatus.objects.update_or_create(service=service, defaults={"at": shop.time.now()})


def a_flow(number: int) -> Flow:
    at = datetime(2026, 1, 1, tzinfo=UTC) + timedelta(seconds=number)
    return Flow.objects.create(
        id=f"flow-{number:04}", number=f"{number:08}", started_at=at, last_at=at, end="x.y.v1", end_at=at, ended_at=at
    )


def authorize_payment(*_: object) -> None:
    raise ZeroDivisionError
