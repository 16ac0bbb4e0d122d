"""``make chaos``: the whole shop as real processes on servers of its own, under every fault we know how to make.

==============  ==============================================================================================
``options``     what a run is asked for, from the environment
``site``        the servers, the lines to them, the processes and the people
``load``        the orders: what is placed, how, and who changes their mind
``faults``      what goes wrong, one method each
``providers``   a gateway and a carrier that lose answers, fail, or are down
``sabotage``    protections switched off, to see the checker fail
``audit``       looks things up in every service's database, in a process of its own
``run``         a run from the first order to the report
==============  ==============================================================================================
"""
