"""The shop's tables as SQLAlchemy classes, for the peers that use it: what the flow writes, and no more."""

from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from sqlalchemy import BigInteger, Computed, DateTime, ForeignKey
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, relationship

from bench import sample


def now() -> datetime:
    return datetime.now(UTC)


class Base(DeclarativeBase):
    type_annotation_map = {datetime: DateTime(timezone=True), int: BigInteger}


class Order(Base):
    __tablename__ = "orders_order"
    id: Mapped[UUID] = mapped_column(primary_key=True, default=sample.new_id)
    placed_at: Mapped[datetime] = mapped_column(default=now)
    customer_name: Mapped[str]
    customer_email: Mapped[str]
    street: Mapped[str]
    city: Mapped[str]
    postal_code: Mapped[str]
    country: Mapped[str]
    payment_token: Mapped[str]
    currency: Mapped[str]
    total: Mapped[int]
    authorized_at: Mapped[datetime | None]
    captured_at: Mapped[datetime | None]
    dispatched_at: Mapped[datetime | None]
    parcel: Mapped[str] = mapped_column(default="")
    delivered_at: Mapped[datetime | None]
    reason: Mapped[str] = mapped_column(default="")
    attention: Mapped[str] = mapped_column(default="")
    status: Mapped[str] = mapped_column(Computed("the database's own"))
    lines: Mapped[list["OrderLine"]] = relationship()


class OrderLine(Base):
    __tablename__ = "orders_orderline"
    id: Mapped[int] = mapped_column(primary_key=True)
    order_id: Mapped[UUID] = mapped_column(ForeignKey("orders_order.id"))
    product_id: Mapped[int]
    sku: Mapped[str]
    name: Mapped[str]
    unit_price: Mapped[int]
    quantity: Mapped[int]


class Payment(Base):
    __tablename__ = "payments_payment"
    order_id: Mapped[UUID] = mapped_column(primary_key=True)
    currency: Mapped[str]
    asked: Mapped[int]
    authorized: Mapped[int]
    captured: Mapped[int] = mapped_column(default=0)
    voided: Mapped[int] = mapped_column(default=0)
    refunded: Mapped[int] = mapped_column(default=0)
    reference: Mapped[str]
    declined: Mapped[str] = mapped_column(default="")
    capture_refused: Mapped[str] = mapped_column(default="")
    order_cancelled: Mapped[bool] = mapped_column(default=False)
    authorized_at: Mapped[datetime] = mapped_column(default=now)
    created_at: Mapped[datetime] = mapped_column(default=now)
    entries: Mapped[list["Entry"]] = relationship()


class Entry(Base):
    __tablename__ = "payments_entry"
    id: Mapped[int] = mapped_column(primary_key=True)
    payment_id: Mapped[UUID] = mapped_column(ForeignKey("payments_payment.order_id"))
    kind: Mapped[str]
    amount: Mapped[int]
    key: Mapped[str]
    entered_at: Mapped[datetime] = mapped_column(default=now)


class Shipment(Base):
    __tablename__ = "shipping_shipment"
    order_id: Mapped[UUID] = mapped_column(primary_key=True)
    state: Mapped[str]
    name: Mapped[str]
    street: Mapped[str]
    city: Mapped[str]
    postal_code: Mapped[str]
    country: Mapped[str]
    parcel: Mapped[str] = mapped_column(default="")
    reason: Mapped[str] = mapped_column(default="")
    created_at: Mapped[datetime] = mapped_column(default=now)
    dispatched_at: Mapped[datetime | None]
    tracked_at: Mapped[datetime | None]
    ended_at: Mapped[datetime | None]


def new_order() -> Order:
    """The sample order with its lines, not stored yet."""
    lines = [
        OrderLine(product_id=key, sku=sku, name=name, unit_price=price, quantity=quantity)
        for key, sku, name, price, quantity in sample.LINES
    ]
    known: dict[str, Any] = {**sample.CUSTOMER, **sample.ADDRESS}
    return Order(**known, payment_token=sample.TOKEN, currency=sample.CURRENCY, total=sample.TOTAL, lines=lines)


def new_payment(order_id: UUID, total: int, currency: str, reference: str, key: str) -> Payment:
    """A payment whose whole amount is held, with its entry, not stored yet."""
    entry = Entry(kind="authorized", amount=total, key=key)
    return Payment(
        order_id=order_id, asked=total, authorized=total, currency=currency, reference=reference, entries=[entry]
    )
