"""A payment gateway with a switch: down for everybody while a file exists, ``gateway-is-down`` in the data folder."""

from pathlib import Path
from typing import Any

from django.conf import settings

from payments.gateway import GatewayDown
from payments.sandbox import SandboxGateway

SWITCH = "gateway-is-down"


class SwitchedGateway:
    """The sandbox, where it is switched on. Its records can always be looked into."""

    def __init__(self) -> None:
        self._sandbox = SandboxGateway()

    def __getattr__(self, name: str) -> Any:
        if name != "records" and (Path(settings.DATA_DIR) / SWITCH).exists():
            raise GatewayDown("switched off")
        return getattr(self._sandbox, name)
