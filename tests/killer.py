"""A payment provider's client that takes its process with it, as a fault in a native library does."""

import os
import signal
from typing import Any

from payments.sandbox import SandboxGateway

#: The token that does it.
DEADLY = "tok_deadly"


class KillerGateway(SandboxGateway):
    """The sandbox, but for one token."""

    def authorize(self, *, token: str, **details: Any) -> Any:
        if token == DEADLY:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().authorize(token=token, **details)
