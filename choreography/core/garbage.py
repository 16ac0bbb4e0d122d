"""Python's garbage collector now and then looks through all there is. What was imported will never be garbage."""

import gc


def leave_imports_alone() -> None:
    """Call it when a process has loaded what it works with.

    A full collection takes a tenth of a second otherwise, with tens of thousands of classes, functions and constants,
    and all events of the process wait for it. https://docs.python.org/3/library/gc.html#gc.freeze
    """
    gc.collect()
    gc.freeze()
