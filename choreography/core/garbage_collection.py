"""Keep Python's garbage collector away from what was imported, which never becomes garbage."""

import gc


def freeze_imports() -> None:
    """Call it when a process has imported what it works with.

    A full collection would otherwise visit tens of thousands of classes, functions and constants, which takes a tenth
    of a second; all events of the process wait for it. https://docs.python.org/3/library/gc.html#gc.freeze
    """
    gc.collect()
    gc.freeze()
