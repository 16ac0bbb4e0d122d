"""Thousands of short histories of the shop in which everything that can go wrong does, each repeatable by its number.

``make simulate`` runs them. Real are the reactions, outboxes, inboxes, the retry policy, the relay, the timers and the
databases (SQLite in memory); the broker is the embedded one in memory, and time stands still unless it is told to pass.

============  =====================================================================================
``actions``   what may happen: one class each, and what a fault does to it
``schedule``  a seed's history as an explicit list of actions, which may be thinned out
``external_systems`` the provider and the carrier, in whose calls things go wrong
``shop``      the shop in which actions happen, and the processes that can die in it
``run``       one history from its first action to its end, with the invariants checked all the way
``shrink``    the shortest part of a history that still fails
``figures``   what many histories have visited: lines, pairs of events, ends
``planted``   bugs on purpose: proof that the checks can fail
============  =====================================================================================
"""
