"""The programs the shop is measured against: the same flow and the same rows, each written as its library suggests.

Every module says in its docstring what its program does not guarantee. All have

``place()``     place one order and return its id, when it is stored and whatever comes next is under way. Called by
                several threads at once
``opened()``    a context manager around many calls of ``place``
"""
