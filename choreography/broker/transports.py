"""The transports that kombu lacks, or does not do well enough: ``embedded://`` and ``amqps://``."""

import ssl
from typing import Any

from kombu.transport import TRANSPORT_ALIASES
from kombu.transport.pyamqp import SSLTransport

from choreography.broker import embedded


class TLSTransport(SSLTransport):
    """AMQP to a broker whose certificate is trusted, in force, and made for the name that is called.

    kombu's own does not compare names. What else Celery's ``broker_use_ssl`` says is kept.
    """

    def establish_connection(self) -> Any:
        client: Any = self.client
        given = client.ssl if isinstance(client.ssl, dict) else {}
        # Anew for each connection: of several brokers each has a name of its own.
        client.ssl = {"cert_reqs": ssl.CERT_REQUIRED} | given | {"server_hostname": client.hostname}
        return super().establish_connection()


def register() -> None:
    """Make kombu, and so Celery and Flower, know them. Safe to repeat."""
    embedded.register()
    TRANSPORT_ALIASES["amqps"] = f"{__name__}:{TLSTransport.__name__}"
