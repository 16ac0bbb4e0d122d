"""What an exception means for a delivery: which class of the tree in ``errors`` it stands for."""

import sqlite3

from django.db import DatabaseError, IntegrityError, InterfaceError, OperationalError

from choreography.core.errors import Conflict, Outage, Transient

#: SQLSTATEs of faults that the next attempt may not meet: a deadlock, a serialization failure, a lock that is not
#: available, a statement that was canceled. https://www.postgresql.org/docs/15/errcodes-appendix.html
_PASSING = {"40P01", "40001", "55P03", "57014"}
#: Tables or columns are missing: the code is newer than the database, whose migrations are still to come.
_UNMIGRATED = {"42P01", "42703"}
_UNMIGRATED_ON_SQLITE = ("no such table", "no such column", "has no column named")
#: After a failover: the server this process is connected to accepts no writes.
_READ_ONLY = "25006"
#: The same for SQLite: the file is locked. https://www.sqlite.org/rescode.html
_LOCKED = {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED}


def classify(error: Exception) -> type[Exception]:
    """The class of the tree in ``errors`` an exception stands for; its own class if it stands for none."""
    if isinstance(error, IntegrityError | Conflict):
        return Transient
    if isinstance(error, DatabaseError | InterfaceError):
        return _classify_of_database(error)
    if isinstance(error, ConnectionError | TimeoutError):
        return Transient
    return type(error)


def is_database_down(error: Exception) -> bool:
    """Whether an outage is one of the database, rather than of an external system."""
    return isinstance(error, DatabaseError | InterfaceError) and classify(error) is Outage


def _classify_of_database(error: Exception) -> type[Exception]:
    """By what the server says (``pgcode``) or SQLite (``sqlite_errorcode``): Django's classes alone are too coarse."""
    state = getattr(error.__cause__, "pgcode", None)
    code = getattr(error.__cause__, "sqlite_errorcode", None)
    if state in _PASSING or (code is not None and code & 0xFF in _LOCKED):
        return Transient
    if state == _READ_ONLY or state in _UNMIGRATED:
        return Outage
    if code == sqlite3.SQLITE_ERROR and any(phrase in str(error) for phrase in _UNMIGRATED_ON_SQLITE):
        return Outage
    if isinstance(error, OperationalError | InterfaceError) and code != sqlite3.SQLITE_ERROR:
        return Outage
    # What psycopg2 raises when a connection breaks in the middle of a result.
    return Outage if type(error) is DatabaseError and state is None else type(error)
