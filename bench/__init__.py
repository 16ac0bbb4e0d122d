"""What the shop costs and how fast it is, beside the programs people would write instead. See README.md.

``__main__``  the whole benchmark: rounds, table, JSON, plot
``servers``   a RabbitMQ node and a PostgreSQL cluster of its own, durable as they are by default
``systems``   who takes part, and which processes each consists of
``peers``     the programs that are compared
``placer``    places orders, in a process of its own
``runs``      one system through warm-up, idle, bulk and half load
``meters``    processor time and memory of processes, statements of a database
``relays``    the relay alone against plain pipelined publishing
``long``      the long ones: a long queue, memory, tables full of old rows
``report``    what came of it
``external_systems``  the payment provider and the carrier: the same for everyone, and free
"""
