"""Admin pages for the tables every service has, registered here for each service of the process.

Permissions are the service's own: ``payments.view_outbox``, ``orders.retry_deadletter``.
"""

from django.contrib import admin

from choreography.admin.dead_letters import DeadLetterAdmin
from choreography.admin.tables import InboxAdmin, OutboxAdmin
from choreography.core.conf import conf
from choreography.storage.tables import ServiceTables


def register(service: str) -> None:
    """Register the outbox, the inbox and the dead letters of a service."""
    tables = ServiceTables(service)
    admin.site.register(tables.outbox.model, OutboxAdmin)
    admin.site.register(tables.inbox.model, InboxAdmin)
    admin.site.register(tables.dead_letters.model, DeadLetterAdmin)


for _service in conf().services:
    register(_service)
