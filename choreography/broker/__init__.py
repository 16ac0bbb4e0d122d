"""Publishing with confirmation, the exchanges and queues, and the embedded broker."""
