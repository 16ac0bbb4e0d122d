"""The event machinery: how services announce facts and react to the facts of others. It knows no service.

What to read, in the order in which an event lives:

``contracts``  what an event is, for its publisher and for its readers
``outbox``     announce it in the transaction that made it true
``relay``      move it from the outbox to the broker, confirmed
``topology``   the exchanges and queues, derived from the reactions in the code
``worker``     take it from the broker inside a Celery worker
``delivery``   one delivery's whole life: done, again later, or parked
``claims``     only one copy of a delivery at a time asks the outside world
``retries``    which of those, for which error
``letters``    what was parked, sent again
``timers``     what happens because time passes
``gate``       have contracts changed, and whom does it break
``doctor``     what is wrong with a running installation
``embedded``   a broker in a file, for running without one
``testing``    all of it in one process, with a broker and a clock of its own
"""
