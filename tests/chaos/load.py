"""The orders of a run: what is placed, when and how, and who changes their mind. All of it follows from the seed.

People do what people do: they send the same form again when no answer came, and ask again when nobody heard.
"""

import random
import re
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from html import unescape
from http.client import HTTPException
from http.cookiejar import CookieJar
from typing import TypeVar
from urllib.error import HTTPError
from urllib.parse import urlencode
from urllib.request import HTTPCookieProcessor, OpenerDirector, build_opener

import psycopg2

from payments.sandbox import TOKENS
from shipping.sandbox import ADDRESSES
from tests.chaos.options import Options
from tests.chaos.site import ADMIN_PASSWORD, Site

Answer = TypeVar("Answer")

#: Nothing can be done with these until a person cancels them: the external system is never there for them.
HOPELESS_TOKEN, HOPELESS_WORD = "tok_down", "unreachable"

#: Part of the orders that: are good in every way, come by the form in the admin, are cancelled at some moment; and of
#: those whose carrier takes long, the part that is cancelled at that very moment.
_GOOD, _BY_FORM, _CANCELLED, _CANCELLED_AT_THE_CARRIER = 0.7, 0.15, 0.08, 0.5

#: Seconds between two tries of a person who got no answer, and between looks for parcels being handed over.
_AGAIN, _LOOK = 0.3, 0.02


@dataclass(frozen=True)
class Wish:
    """An order someone wants to place."""

    at: float
    """Seconds from the start."""
    submission: str
    token: str
    street: str
    by_form: bool
    cancel_after: float | None
    """Seconds after which they don't want it any more."""


def wishes(options: Options) -> list[Wish]:
    """All of a run, in the order of their time. Every kind of token and address is among them, if there is room."""
    rng = random.Random(f"{options.seed}:orders")
    bad = [(token, "Main Street 1") for token in TOKENS] + [("tok_approved", f"{word} Street 1") for word in ADDRESSES]
    if options.sabotage:  # what takes long is not what the run is about
        bad = [kind for kind in bad if not _is_hopeless(*kind) and kind[0] != "tok_fails_twice"]
    kinds = [
        ("tok_approved", "Main Street 1") if rng.random() < _GOOD else rng.choice(bad) for _ in range(options.orders)
    ]
    for place, kind in zip(rng.sample(range(options.orders), min(len(bad), options.orders // 2)), bad, strict=False):
        kinds[place] = kind
    return [
        Wish(
            at=number * options.duration / options.orders,
            submission=str(uuid.UUID(int=rng.getrandbits(128), version=4)),
            token=token,
            street=street,
            by_form=rng.random() < _BY_FORM,
            cancel_after=rng.random() * 3 if rng.random() < _CANCELLED else None,
        )
        for number, (token, street) in enumerate(kinds)
    ]


def _is_hopeless(token: str, street: str) -> bool:
    return token == HOPELESS_TOKEN or HOPELESS_WORD in street


class Load:
    """Places the orders of a run, in threads of its own. Create it with ``under_load``."""

    def __init__(self, site: Site, options: Options) -> None:
        self._site = site
        self._product: int = site.ask("product")
        self._started = time.monotonic()
        self._stop = threading.Event()
        self._rng = random.Random(f"{options.seed}:people")
        self._lock = threading.Lock()
        self._to_cancel: list[tuple[float, str]] = []
        self.placed: dict[str, str] = {}
        """Order by submission: what the shop has said it took."""
        self.counts: Counter[str] = Counter()
        """What people did."""
        self._wishes = wishes(options)
        self._reach = 0.0

    @property
    def is_done(self) -> bool:
        """Everything was placed."""
        return len(self.placed) == len(self._wishes)

    def may_reach(self, part: float) -> None:
        """Go on placing up to this part of the orders. They wait where faults take long: each fault shall hit some."""
        self._reach = part

    def place_directly(self) -> None:
        for wish in self._due(by_form=False):
            asked = {"submission": wish.submission, "token": wish.token, "street": wish.street}
            order = self._until_answered(partial(self._site.people.ask, "place", **asked))
            if order:
                self._took(wish, wish.submission, order)

    def place_by_form(self) -> None:
        customer = Customer(self._site.web)
        for wish in self._due(by_form=True):
            form = self._until_answered(customer.takes_a_form)
            if form is None:
                return
            form |= {"street": wish.street, "payment_token": wish.token, "lines-0-product": str(self._product)}
            order = self._until_answered(partial(customer.sends, form))
            if order:
                self._took(wish, form["submission"], order)

    def change_minds(self) -> None:
        while not self._stop.wait(_LOOK):
            with self._lock:
                due = [order for at, order in self._to_cancel if at <= time.monotonic()]
                self._to_cancel = [(at, order) for at, order in self._to_cancel if order not in due]
            for order in due:
                self._cancel(order, "cancelled at some moment")

    def cancel_at_the_carrier(self) -> None:
        """Cancel parcels that are being handed over at this very moment."""
        seen: set[str] = set()
        before: set[str] = set()
        while not self._stop.is_set():
            try:
                with self._site.database("shipping") as cursor:
                    while not self._stop.wait(_LOOK):
                        cursor.execute("SELECT order_id::text FROM shipping_shipment WHERE state = 'dispatching'")
                        now = {row[0] for row in cursor.fetchall()}
                        # Seen twice: it takes long enough for the cancellation to arrive before the carrier's answer.
                        for order in (now & before) - seen:
                            seen.add(order)
                            if self._rng.random() < _CANCELLED_AT_THE_CARRIER:
                                self._cancel(order, "cancelled at the carrier")
                        before = now
            except psycopg2.OperationalError:
                self._stop.wait(_AGAIN)

    def cancel_hopeless(self, orders: list[dict[str, str]]) -> None:
        """A person sees that nothing will come of these."""
        for order in orders:
            if _is_hopeless(order["token"], order["street"].lower()) and order["status"] != "cancelling":
                self._cancel(order["id"], "cancelled as hopeless")

    def end(self) -> None:
        self._stop.set()

    def _due(self, *, by_form: bool) -> Iterator[Wish]:
        for number, wish in enumerate(self._wishes):
            if wish.by_form != by_form:
                continue
            while (early := self._started + wish.at - time.monotonic()) > 0 or number > self._reach * len(self._wishes):
                if self._stop.wait(max(early, _LOOK)):
                    return
            yield wish

    def _until_answered(self, ask: Callable[[], Answer | None]) -> Answer | None:
        """Ask until there is an answer, or the run is being ended."""
        while (answer := ask()) is None:
            self.counts["asked again"] += 1
            if self._stop.wait(_AGAIN):
                return None
        return answer

    def _took(self, wish: Wish, submission: str, order: str) -> None:
        self.placed[submission] = order
        self.counts["placed by form" if wish.by_form else "placed directly"] += 1
        if wish.cancel_after is not None:
            with self._lock:
                self._to_cancel.append((time.monotonic() + wish.cancel_after, order))

    def _cancel(self, order: str, why: str) -> None:
        answer = self._until_answered(partial(self._site.people.ask, "cancel", order_id=order))
        if answer is not None:
            self.counts[why if answer == "asked" else f"{why}, {answer}"] += 1


class Customer:
    """Places orders in the admin, over HTTP, as a browser would."""

    _ADD = "/admin/orders/order/add/"

    def __init__(self, address: str) -> None:
        self._address = address
        self._browser: OpenerDirector | None = None

    def takes_a_form(self) -> dict[str, str] | None:
        """A form for a new order with its hidden fields and a customer filled in. ``None``: no answer."""
        page = self._open(self._ADD)
        if page is None:
            return None
        form = dict(_hidden_fields(page[1]))
        return form | {
            "customer_name": "Ada Example",
            "customer_email": "ada@example.org",
            "city": "Bonn",
            "postal_code": "53111",
            "country": "DE",
            "lines-0-quantity": "2",
            "lines-TOTAL_FORMS": "1",
        }

    def sends(self, form: dict[str, str]) -> str | None:
        """The order the form made. ``None``: no answer; it is safe to send it again."""
        page = self._open(self._ADD, form)
        if page is None:
            return None
        found = re.search(r"/order/([0-9a-f-]{36})/", page[0])
        assert found, f"the form was refused:\n{re.findall(r'errorlist.*', page[1])}"
        return found[1]

    def _open(self, path: str, form: dict[str, str] | None = None) -> tuple[str, str] | None:
        """Where one ends up, and the page. ``None``: no answer, or that something is down."""
        try:
            self._browser = self._browser or self._log_in()
            return _get(self._browser, self._address + path, form)
        except HTTPError as error:
            with error:
                if error.code < 500:
                    raise
            return None
        except (OSError, HTTPException):
            return None

    def _log_in(self) -> OpenerDirector:
        browser = build_opener(HTTPCookieProcessor(CookieJar()))
        address = self._address + "/admin/login/"
        login = dict(_hidden_fields(_get(browser, address)[1])) | {"username": "admin", "password": ADMIN_PASSWORD}
        assert "logout" in _get(browser, address, login | {"next": "/admin/"})[1]
        return browser


@contextmanager
def under_load(site: Site, options: Options) -> Iterator[tuple[Load, "Callable[[], None]"]]:
    """The load of a run, begun; and a function that raises what went wrong in one of its threads."""
    load = Load(site, options)
    with ThreadPoolExecutor(thread_name_prefix="people") as pool:
        work = [load.place_directly, load.place_by_form, load.change_minds, load.cancel_at_the_carrier]
        threads: list[Future[None]] = [pool.submit(each) for each in work]

        def check() -> None:
            for thread in threads:
                if thread.done():
                    thread.result()

        try:
            yield load, check
        finally:
            load.end()
    check()


def _get(browser: OpenerDirector, address: str, form: dict[str, str] | None = None) -> tuple[str, str]:
    body = urlencode(form).encode() if form else None
    with browser.open(address, body, timeout=15) as answer:
        return answer.url, answer.read().decode()


def _hidden_fields(page: str) -> Iterator[tuple[str, str]]:
    for tag in re.findall(r"<input[^>]*>", page):
        attributes = {name: unescape(value) for name, value in re.findall(r'([\w-]+)="([^"]*)"', tag)}
        if attributes.get("type") == "hidden" and "__prefix__" not in attributes.get("name", ""):
            yield attributes["name"], attributes.get("value", "")
