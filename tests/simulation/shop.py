"""The shop in which actions happen: its orders, its external systems, and what must hold of them."""

import json
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from typing import Any
from uuid import UUID

from django.db import connections

from choreography import testing
from choreography.broker.embedded.store import Stored
from choreography.outbox.announcing import transaction_of
from choreography.simulation.faults import Violated, Violation
from choreography.simulation.system import BEAT, REST_WITHIN, SimulatedSystem, timer_names
from choreography.storage.tables import ServiceTables
from orders.models import Order
from orders.services import cancel_if_open
from shipping.models import Shipment
from tests.invariants import Facts, at_any_moment, every_order_ends, once_settled
from tests.journal_agrees import disagreements, wrong_flows
from tests.shop_in_a_box import SERVICES, TRACK_PARCELS, Shop
from tests.simulation.external_systems import ExternalSystems

#: Seconds after which authorizations expire, and orders that are not paid are cancelled.
LIFETIME = 300.0

_TO_MEND = ("tok_down", "unreachable")


class SimulatedShop(SimulatedSystem, Shop):
    """The choreography, and what may go wrong in it. Create it inside ``clock.use_clock``."""

    systems: ExternalSystems

    def __init__(
        self, frozen: testing.FrozenClock, systems: ExternalSystems, services: Iterable[str] | None = None
    ) -> None:
        super().__init__(frozen, services)
        self.systems = systems
        self.meanwhile = systems.meanwhile
        self.order_ids: list[UUID] = []
        self._facts = _Remembering()
        self._checked: tuple[int, ...] = ()

    def find_orders(self) -> None:
        """Learn which orders there are: a customer may not have heard that one was placed."""
        with self.no_process():
            self.order_ids = list(Order.objects.order_by("pk").values_list("pk", flat=True))

    # How things stand

    def check(self) -> None:
        with self.no_process():
            changed = (_changes("orders"), self.systems.calls)
            if changed == self._checked:
                return
            self._checked = changed
            self._facts.forget("orders", "booked", "parcels")
            for violation in at_any_moment(self._facts):
                raise Violated(violation)

    def before_purge(self) -> None:
        self._facts.remember()

    def end(self) -> None:
        """No more faults. People cancel what can't go on by itself, send again what is parked, and everything settles.

        Raises:
            Violated: it does not settle, or a flow ends badly.
        """
        super().end()
        self._facts.forget()
        for violation in once_settled(self._facts):
            raise Violated(violation)
        if "journal" in self.services:
            self.tick("journal.check_flows")
            for wrong in self._wrong_in_journal():
                raise Violated(Violation("the_journal_agrees", None, wrong))

    def _wrong_in_journal(self) -> Iterator[str]:
        orders = [*Order.objects.filter(attention="").values_list("pk", flat=True)]
        yield from disagreements(orders, self._facts.rows_about)
        yield from wrong_flows(orders)

    def mend(self) -> None:
        self.systems.mend()
        super().mend()
        for order in Order.objects.order_by("pk"):
            if any(word in f"{order.payment_token} {order.street}".lower() for word in _TO_MEND):
                cancel_if_open_now(order.pk)

    def run_until_settled(self) -> None:
        """Let everything settle, within bounds: nothing is due on a ladder, with the carrier, or for a timer."""
        begin = beat = self.time.now()
        while True:
            if self.drain():
                continue
            due = self.broker.next_due()
            if due is not None:
                self.time.advance(max(due - self.time.now().timestamp(), 0) + 0.001)
            elif Shipment.objects.under_way().exists():
                self.time.advance(5)
                self.tick(TRACK_PARCELS)
            else:
                self._refuse_to_leave_it_to_a_timer()
                self.time.advance(LIFETIME + 1)
                self.beat()
                if not self.drain():
                    return
            if (self.time.now() - beat).total_seconds() >= BEAT:
                beat = self.time.now()
                self.beat()
            if (seconds := (self.time.now() - begin).total_seconds()) > REST_WITHIN:
                raise Violated(Violation("every_flow_ends", None, f"not settled after {seconds:.0f} s"))

    def _refuse_to_leave_it_to_a_timer(self) -> None:
        """An order that only ends because something has grown too old was forgotten.

        Not where the provider has let go of the money and payments has yet to enter it: that is the timer's work.
        """
        facts = Facts()
        for order_id, detail in every_order_ends(facts):
            payment = facts.payments.get(order_id) if order_id else None
            if order_id and (payment is None or payment.held == facts.held(order_id)):
                raise Violated(
                    Violation("every_flow_ends", order_id, f"{order_id}: {detail}, and nothing is under way")
                )

    # The story

    def in_short(self, text: str) -> str:
        """Ids of orders as people count them."""
        for number, order_id in enumerate(self.order_ids):
            text = text.replace(str(order_id), f"order {number}")
        return text

    def about(self, message: Stored) -> str:
        event_type, subject = _envelope(message)
        return f"{subject}'s {event_type.partition('.')[2].rpartition('.')[0]}"


class _Remembering(Facts):
    """Facts that can be read anew, and that know rows which were purged since."""

    def rows_about(self, service: str, table: str, order: str) -> list[Any]:
        """What the outbox or the inbox of a service has, or had, about an order."""
        if table not in self._by_order:
            self._by_order[table] = defaultdict(list)
            for of, row in self._rows_of_services(table):
                self._by_order[table][of, row.subject].append(row)
        return self._by_order[table][service, order]

    def __init__(self) -> None:
        super().__init__()
        self._remembered: dict[tuple[str, str], dict[int, Any]] = {}
        self._by_order: dict[str, dict[tuple[str, str], list[Any]]] = {}

    def remember(self) -> None:
        """Keep the rows of the outboxes and inboxes that there are now."""
        for table in ("outbox", "inbox"):
            for service, row in super()._rows_of_services(table):
                self._remembered.setdefault((service, table), {})[row.pk] = row

    def forget(self, *names: str) -> None:
        """Read these, or everything, anew when it is asked for next."""
        for name, value in list(vars(type(self).__mro__[1]).items()):
            if isinstance(value, cached_property) and (not names or name in names):
                vars(self).pop(name, None)

    def _rows_of_services(self, table: str) -> Iterator[tuple[str, Any]]:
        there = set()
        for service, row in super()._rows_of_services(table):
            there.add((service, row.pk))
            yield service, row
        for (service, of), rows in self._remembered.items():
            for pk, row in rows.items():
                if of == table and (service, pk) not in there:
                    yield service, row


def cancel_if_open_now(order_id: UUID) -> None:
    """A person sees that an order can't go on."""
    with transaction_of("orders"), Order.objects.locked([order_id]) as [order]:
        cancel_if_open(order, "customer_request")


def order_of(message: Stored) -> UUID | None:
    """The order a message is about; none, if it is a report or an account."""
    event_type, subject = _envelope(message)
    is_about_order = event_type.split(".")[1] not in ("deliveries_reported", "hour_accounted")
    return UUID(subject) if is_about_order else None


def shop_timers(services: Sequence[str] = SERVICES) -> list[str]:
    """Every timer of the shop, sorted."""
    return timer_names(services)


def _envelope(message: Stored) -> tuple[str, str]:
    event = json.loads(message.body)
    return str(event["type"]), str(event["subject"])


def _changes(service: str) -> int:
    connection: Any = connections[ServiceTables(service).alias].connection
    return int(connection.total_changes) if connection is not None else 0
