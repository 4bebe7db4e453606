"""What the drivers' errors say, in PostgreSQL's words: SQLSTATE and the name of the constraint."""

from __future__ import annotations

import re
import sqlite3

import asyncpg

UNIQUE_VIOLATION = "23505"
LOCK_NOT_AVAILABLE = "55P03"
SERIALIZATION_FAILURE = "40001"

# By extended result code, and else by its last byte: https://sqlite.org/rescode.html
_OF_SQLITE = {
    sqlite3.SQLITE_CONSTRAINT_UNIQUE: UNIQUE_VIOLATION,
    sqlite3.SQLITE_CONSTRAINT_PRIMARYKEY: UNIQUE_VIOLATION,
    sqlite3.SQLITE_CONSTRAINT_FOREIGNKEY: "23503",
    sqlite3.SQLITE_CONSTRAINT_NOTNULL: "23502",
    sqlite3.SQLITE_CONSTRAINT_CHECK: "23514",
    sqlite3.SQLITE_CONSTRAINT_TRIGGER: "23001",
    sqlite3.SQLITE_BUSY_SNAPSHOT: SERIALIZATION_FAILURE,
    # Somebody changed the schema: the statement is to be prepared again.
    sqlite3.SQLITE_SCHEMA: SERIALIZATION_FAILURE,
    sqlite3.SQLITE_BUSY: LOCK_NOT_AVAILABLE,
    sqlite3.SQLITE_LOCKED: LOCK_NOT_AVAILABLE,
    sqlite3.SQLITE_INTERRUPT: "57014",
    sqlite3.SQLITE_READONLY: "25006",
    sqlite3.SQLITE_FULL: "53100",
    sqlite3.SQLITE_NOMEM: "53200",
    sqlite3.SQLITE_IOERR: "58030",
    sqlite3.SQLITE_CORRUPT: "58030",
    sqlite3.SQLITE_CANTOPEN: "58030",
    sqlite3.SQLITE_NOTADB: "58030",
}
_PRIMARY_CODE = 0xFF

# By number: https://mariadb.com/kb/en/mariadb-error-codes/, and from 2000 on those of its clients.
_OF_MYSQL = {
    1021: "53100",  # the disk is full
    1040: "53300",  # too many connections
    1041: "53200",  # out of memory
    1044: "28000",  # access to the database is denied
    1045: "28000",  # access is denied
    1049: "3D000",  # there is no such database
    1053: "57P01",  # the server is shutting down
    1062: UNIQUE_VIOLATION,
    1114: "53100",  # the table is full
    1203: "53300",  # too many connections of the user
    1205: LOCK_NOT_AVAILABLE,  # a lock was not granted in time
    1213: "40P01",  # a deadlock
    1226: "53300",  # too much of a resource for the user
    1290: "25006",  # the server is read-only
    1317: "57014",  # the statement was interrupted
    1451: "23001",  # a row is still referred to
    1452: "23503",  # a row refers to none
    1644: "23001",  # SIGNAL: a trigger of ours
    1792: "25006",  # the transaction is read-only
    1836: "25006",  # the server is read-only
    1969: "57014",  # max_statement_time
    2002: "08001",
    2003: "08001",
    2006: "08006",
    2013: "08006",
    2014: "08006",
    2055: "08006",
    4025: "23514",  # a CHECK
}


def cause_of(error: BaseException | None) -> tuple[str | None, str]:
    """Returns the SQLSTATE of a driver's error, None when it has none, and the constraint or "".

    SQLite and MariaDB name a constraint in the error's text alone, which no language or setting
    of theirs changes.
    """
    if isinstance(error, asyncpg.PostgresError):
        return error.sqlstate, getattr(error, "constraint_name", None) or ""
    text = str(error.args[-1]) if error is not None and error.args else ""
    code = getattr(error, "sqlite_errorcode", None)
    if code is not None:
        return _of_sqlite(code, text)
    number = error.args[0] if error is not None and error.args else None
    if not isinstance(number, int):
        return None, ""
    if is_of_a_broken_trigger(error):
        return SERIALIZATION_FAILURE, ""
    return _OF_MYSQL.get(number), _named_by_mysql(number, text)


def is_of_a_broken_trigger(error: BaseException | None) -> bool:
    """Tells whether MariaDB refuses to write to a table of which it has read a trigger in part.

    It has done nothing then, and the table is opened anew: see `storage.dialects.reopening`. The
    text is in the language of whoever opened the table, English where nobody chose another.
    """
    match error.args if error is not None else ():
        case (1064, str(text)):
            return "has an error in its body" in text
    return False


def _of_sqlite(code: int, text: str) -> tuple[str | None, str]:
    sqlstate = _OF_SQLITE.get(code) or _OF_SQLITE.get(code & _PRIMARY_CODE)
    if sqlstate == UNIQUE_VIOLATION:
        # "UNIQUE constraint failed: users.email_key": named as the models name it.
        found = re.search(r": (\w+)\.(\w+)$", text)
        return sqlstate, f"uq_{found[1]}_{found[2]}" if found else ""
    # A trigger of ours says its name and nothing else.
    return sqlstate, text if code == sqlite3.SQLITE_CONSTRAINT_TRIGGER else ""


def _named_by_mysql(number: int, text: str) -> str:
    if number == 1062:  # noqa: PLR2004 - see the table
        found = re.search(r"for key '(?:\w+\.)?(\w+)'$", text)
        return found[1] if found else ""
    return text if number == 1644 else ""  # noqa: PLR2004 - see the table
