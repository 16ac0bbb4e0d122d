"""Short random histories: any interleaving, repetition, crash, outage and cancellation, then peace.

A seed is a history. ``pytest tests/flows/test_anything_may_happen.py -k "[17]"`` repeats the one that failed;
what happened is printed with the failure.
"""

import sys
from collections.abc import Callable
from random import Random

import pytest
from pytest_django.fixtures import Settings

from choreography.errors import ChoreographyError
from orders.models import Order
from orders.services import cancel_if_open, request_cancellation
from payments.sandbox import TOKENS
from shipping.sandbox import ADDRESSES
from tests.flows.providers import Carrier, Gateway
from tests.shop_in_a_box import Shop, assert_invariants, assert_nothing_is_wrong

HISTORIES = 120
TIMERS = ["shipping.track_parcels", "payments.expire_authorizations", "orders.cancel_unpaid_orders"]
STREETS = ["Main Street 1", "Main Street 2", "Main Street 3", *(f"{word} street" for word in ADDRESSES)]


class History:
    """What chance does to a shop."""

    def __init__(self, seed: int, shop: Shop, gateway: type[Gateway], carrier: type[Carrier]) -> None:
        self.random = Random(seed)
        self.shop, self.gateway, self.carrier = shop, gateway, carrier
        self.orders: list[Order] = []
        self.told: list[str] = []
        self.nested = False
        self.actions: list[tuple[int, Callable[[], None]]] = [
            (12, self.relay),
            (24, self.handle),
            (8, self.handle_another),
            (4, self.repeat),
            (4, self.crash),
            (2, self.place),
            (3, self.cancel),
            (4, self.wait),
            (2, self.tick),
            (1, self.break_or_mend),
            (5, self.meddle),
        ]

    def run(self) -> None:
        self.place()
        for _ in range(self.random.randint(10, 50)):
            self.act()
            assert_nothing_is_wrong(self.shop, self.orders)
        self.make_peace()
        assert_invariants(self.shop, self.orders)

    def act(self) -> None:
        weights, actions = zip(*self.actions, strict=True)
        [action] = self.random.choices(actions, weights)
        action()

    def tell(self, what: str) -> None:
        self.told.append("    " * self.nested + what)

    def service(self) -> str:
        return self.random.choice(self.shop.services)

    # What may happen

    def place(self) -> None:
        token, street = self.random.choice(["tok_approved", *TOKENS]), self.random.choice(STREETS)
        self.tell(f"order {len(self.orders)} is placed: {token}, {street}")
        self.orders.append(self.shop.place(token, street))

    def cancel(self) -> None:
        number = self.random.randrange(len(self.orders))
        self.tell(f"order {number} is to be cancelled")
        try:
            request_cancellation(self.orders[number].pk)
        except ChoreographyError as refused:
            self.tell(f"- refused: {type(refused).__name__}")

    def relay(self) -> None:
        service = self.service()
        self.tell(f"{service} publishes {self.shop.relay(service)}")

    def handle(self) -> None:
        service = self.service()
        self.tell(f"{service} handles the next message")
        step = self.shop.handle_next(service)
        self.tell(f"- {step and (step.message.body[:120], step.outcome)}")

    def handle_another(self) -> None:
        service, number = self.service(), self.random.randint(1, 3)
        messages = [message for _ in range(number + 1) if (message := self.shop.take(service))]
        for message in messages[:-1]:
            self.shop.broker.reject(message.tag, requeue=True)
        for message in messages[-1:]:
            self.tell(f"{service} handles a later message")
            step = self.shop.handle(service, message)
            self.tell(f"- {(step.message.body[:120], step.outcome)}")

    def repeat(self) -> None:
        if self.shop.steps:
            step = self.random.choice(self.shop.steps)
            self.tell(f"{step.service} is delivered a message again: {step.message.body[:120]!r}")
            self.shop.repeat(step)

    def crash(self) -> None:
        service = self.service()
        if self.random.random() < 0.5:
            self.tell(f"{service} dies before its commit")
            self.shop.crash_before_commit(service)
        else:
            self.tell(f"{service} dies before it acknowledges")
            self.shop.crash_before_acknowledging(service)

    def wait(self) -> None:
        seconds = self.random.choice([0.5, 3, 20, 200])
        self.tell(f"{seconds} s pass")
        self.shop.time.advance(seconds)

    def tick(self) -> None:
        name = self.random.choice(TIMERS)
        self.tell(f"{name} ticks")
        self.shop.tick(name)

    def break_or_mend(self) -> None:
        providers: list[type[Gateway] | type[Carrier]] = [self.gateway, self.carrier]
        provider = self.random.choice(providers)
        provider.down = not provider.down
        self.tell(f"{provider.__name__} down: {provider.down}")

    def meddle(self) -> None:
        """At the next call of this kind other things happen before its answer arrives."""
        call = self.random.choice(["authorize", "capture", "void", "book"])
        calls = self.carrier.meanwhile if call == "book" else self.gateway.meanwhile
        calls[call] = self.meanwhile

    def meanwhile(self) -> None:
        if self.nested:
            return
        self.nested = True
        try:
            for _ in range(self.random.randint(1, 12)):
                self.act()
        finally:
            self.nested = False

    # And then nothing fails any more

    def make_peace(self) -> None:
        self.tell("peace")
        self.gateway.down = self.carrier.down = False
        self.gateway.meanwhile.clear()
        self.carrier.meanwhile.clear()
        self.shop.lose_connections()
        for order in self.orders:
            if order.payment_token == "tok_down" or "unreachable" in order.street:
                cancel_if_open(order.pk, "customer_request")
        self.shop.come_to_rest()


@pytest.mark.parametrize("seed", range(HISTORIES))
def test_once_faults_stop_every_order_ends_well(
    shop: Shop, gateway: type[Gateway], carrier: type[Carrier], settings: Settings, seed: int
) -> None:
    settings.AUTHORIZATION_LIFETIME_SECONDS = settings.UNPAID_ORDER_LIFETIME_SECONDS = 300.0
    history = History(seed, shop, gateway, carrier)
    try:
        history.run()
    except BaseException:
        sys.stdout.write("\n".join(history.told))
        raise
