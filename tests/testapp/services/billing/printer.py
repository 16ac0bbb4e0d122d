"""The receipt printer: an external system, and a fake of it for tests."""

from typing import ClassVar, Protocol

from choreography import ExternalSystem, Outage


class PrinterOffline(Outage):
    """The printer can't be reached."""


class Printer(Protocol):
    """What a printer can do."""

    def print_line(self, *, table: str, dish: str, price: int) -> str: ...

    def status(self) -> str: ...


class FakePrinter:
    """Prints into a list."""

    lines: ClassVar[list[str]] = []
    is_offline: ClassVar[bool] = False
    has_bug: ClassVar[bool] = False

    def print_line(self, *, table: str, dish: str, price: int) -> str:
        self.status()
        if self.has_bug:
            raise ZeroDivisionError("a planted bug")
        self.lines.append(f"{table}: {dish} {price}")
        return f"receipt {len(self.lines)}"

    def status(self) -> str:
        if self.is_offline:
            raise PrinterOffline("the printer does not answer")
        return "ready"


printer = ExternalSystem[Printer](
    "receipt printer", "RECEIPT_PRINTER", reads={"status"}, probe=lambda client: client.status()
)
