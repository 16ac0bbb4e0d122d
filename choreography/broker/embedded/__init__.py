"""The embedded broker: kombu transport ``embedded://``, with everything in one SQLite file and no server.

``register()`` makes kombu know it. The URL is the path of the file, as in ``file://``:

``embedded:///srv/shop/var/broker.sqlite3``
    That file (a relative path can't be given), made when it is first used, with two more beside it while it is in use
    and a folder ``broker.sqlite3.owners``. Every process of the machine that uses this URL is on the same broker.
``embedded:///:memory:tests``
    A broker in memory named ``tests``, shared by the connections of this process until it ends.

Transport option ``polling_interval``: seconds between looks at the file, 0.02 unless given.

It is for trying out and for development on one machine. There it keeps what RabbitMQ keeps when processes are killed:
a message that was published is not lost, and one that was not acknowledged is delivered again, to the one queue it came
from. It does not promise

- that the last moments survive a power cut (a commit is not forced to the disk);
- to work over a network file system, or for several machines;
- throughput: one process writes at a time, and waiting is polling;
- priorities, headers exchanges, exchange-to-exchange bindings, lengths of queues, multiple acks.

Delete the file, with everything stopped, for a new broker.
"""

from kombu.transport import TRANSPORT_ALIASES


def register() -> None:
    """Make kombu, and so Celery and Flower, know ``embedded://``. Safe to repeat."""
    TRANSPORT_ALIASES["embedded"] = "choreography.broker.embedded.transport:Transport"
