"""SQLite with a limit for everything: one read-only query on a database that nothing can change.

A query may read tables and call SQL functions. It cannot write, attach, set a pragma, load code, or
use chance; its steps, time, rows, text and memory are bounded. A database file is opened read-only in
place; a script is built in memory once and copied for each query.
"""

import os
import re
import sqlite3
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any
from urllib.parse import quote

MAX_BYTES = 16 << 20  # of the text and blobs of one result
MAX_HEAP = 256 << 20  # bytes that SQLite may use in a process
_CHECK = 200  # steps between looks at the clock; one may copy a megabyte
_SCRIPT_SECONDS = 30.0
_LIMITS = {
    sqlite3.SQLITE_LIMIT_LENGTH: 1 << 20,
    sqlite3.SQLITE_LIMIT_SQL_LENGTH: 20_000,
    sqlite3.SQLITE_LIMIT_EXPR_DEPTH: 200,
    sqlite3.SQLITE_LIMIT_COMPOUND_SELECT: 50,
    sqlite3.SQLITE_LIMIT_LIKE_PATTERN_LENGTH: 200,
    sqlite3.SQLITE_LIMIT_VDBE_OP: 250_000,
    sqlite3.SQLITE_LIMIT_ATTACHED: 0,  # VACUUM INTO attaches as well
    sqlite3.SQLITE_LIMIT_WORKER_THREADS: 0,
}
_READING = {
    sqlite3.SQLITE_SELECT,
    sqlite3.SQLITE_READ,
    sqlite3.SQLITE_FUNCTION,
    sqlite3.SQLITE_RECURSIVE,
}
# what SQLite does by itself to open a virtual table (json_each, full-text search); a query that asks
# for the first is stopped by query_only, and one cannot ask for the others
_INTERNAL = {
    (sqlite3.SQLITE_UPDATE, "sqlite_master"),
    (sqlite3.SQLITE_PRAGMA, "data_version"),
    (sqlite3.SQLITE_PRAGMA, "page_size"),
}
# code, files, raw pointers; and chance, which may guess right
_FORBIDDEN_FUNCTIONS = {
    "load_extension", "readfile", "writefile", "edit", "fts3_tokenizer", "random", "randomblob",
}  # fmt: skip
_SCRIPT = re.compile(
    r"(?>\s++|--[^\n]*+|/\*.*?\*/)*+(?:create|insert|begin|pragma|drop|alter|with|select)\s",
    re.IGNORECASE | re.DOTALL,
)
# what SQLite or its Python module raise for a query; a Warning for a second statement
_ERRORS = (sqlite3.Error, sqlite3.Warning, ValueError, OverflowError)


class QueryError(ValueError):
    """The query has no result; the text says why."""


class OutOfTime(Exception):
    """The query was stopped by the clock: on a faster machine it might have a result."""


@dataclass(frozen=True)
class Limits:
    """What one query may use.

    Attributes:
        rows: Of the result.
        steps: Of SQLite's virtual machine, about 40 million a second.
        until: Monotonic time; not part of what makes limits equal.
    """

    rows: int
    steps: int
    until: float = field(compare=False)


@dataclass(frozen=True)
class Result:
    """What a query returned.

    Attributes:
        rows: Cells are None, int, float, str or bytes.
        width: Number of columns.
        reads: It names a table or view of the database.
    """

    rows: list[tuple[Any, ...]]
    width: int
    reads: bool


def is_script(database: str) -> bool:
    """Return whether the text is an SQL script rather than a path."""
    return _SCRIPT.match(database) is not None


def run(query: str, database: str, limits: Limits) -> Result:
    """Return the result of one query.

    Args:
        query: One SELECT, WITH or VALUES statement.
        database: Path of an SQLite file, or an SQL script.
        limits: What it may use.

    Raises:
        QueryError: For an error of SQLite, or where a limit is reached.
        OutOfTime: When the time is up.
    """
    try:
        with closing(_connect(database)) as connection:
            return _run(query, connection, limits)
    except MemoryError:
        raise QueryError("out of memory") from None
    except _ERRORS as error:
        raise QueryError(_one_line(error)) from None


def limit_memory() -> None:
    """Bound the memory that SQLite may use in this process; for worker processes."""
    with closing(sqlite3.connect(":memory:")) as connection:
        connection.execute(f"PRAGMA hard_heap_limit={MAX_HEAP}")


def _run(query: str, connection: sqlite3.Connection, limits: Limits) -> Result:
    own = {name for (name,) in connection.execute("SELECT name FROM sqlite_master")}
    tables: set[str | None] = set()
    for limit, value in _LIMITS.items():
        connection.setlimit(limit, value)
    connection.execute("PRAGMA query_only=ON")
    connection.execute("PRAGMA temp_store=MEMORY")  # large sorts would go to files
    connection.set_authorizer(_reading_only(tables))
    overrun = _watch(connection, limits)
    try:
        cursor = connection.execute(query)
        if cursor.description is None:
            raise QueryError("the statement returns no rows")
        rows = _rows(cursor, limits.rows)
        return Result(rows, len(cursor.description), not own.isdisjoint(tables))
    except sqlite3.OperationalError:
        if reason := overrun():
            raise reason from None
        raise


def _connect(database: str) -> sqlite3.Connection:
    if is_script(database):
        connection = sqlite3.connect(":memory:", isolation_level=None, cached_statements=0)
        connection.deserialize(_image(database))
    else:
        # immutable: no lock, no journal and no look at the write-ahead log
        connection = sqlite3.connect(
            f"file:{quote(os.path.abspath(database))}?mode=ro&immutable=1",
            uri=True, isolation_level=None, cached_statements=0,
        )  # fmt: skip
    # text that is not UTF-8 stays text
    connection.text_factory = lambda raw: raw.decode("utf-8", "surrogateescape")
    return connection


@lru_cache(maxsize=64)
def _image(script: str) -> bytes:
    """Return the database that a script makes."""
    with closing(sqlite3.connect(":memory:", isolation_level=None)) as connection:
        connection.set_authorizer(_in_memory_only)
        deadline = time.monotonic() + _SCRIPT_SECONDS
        connection.set_progress_handler(lambda: time.monotonic() > deadline, _CHECK)
        connection.executescript(script)
        if connection.in_transaction:
            connection.commit()
        connection.set_authorizer(None)  # SQLite itself asks a pragma here
        return connection.serialize()


def _in_memory_only(action: int, _first: Any, second: Any, _database: Any, _trigger: Any) -> int:
    if action == sqlite3.SQLITE_PRAGMA:
        return sqlite3.SQLITE_IGNORE  # dumps set some; a few hold for the whole process
    if action in (sqlite3.SQLITE_ATTACH, sqlite3.SQLITE_DETACH):
        return sqlite3.SQLITE_DENY
    code = action == sqlite3.SQLITE_FUNCTION and str(second).lower() == "load_extension"
    return sqlite3.SQLITE_DENY if code else sqlite3.SQLITE_OK


def _reading_only(tables: set[str | None]) -> Callable[..., int]:
    """Return an authorizer that notes the tables read."""

    def authorize(action: int, first: Any, second: Any, _database: Any, _trigger: Any) -> int:
        if action == sqlite3.SQLITE_READ:
            tables.add(first)
        if action == sqlite3.SQLITE_FUNCTION and str(second).lower() in _FORBIDDEN_FUNCTIONS:
            return sqlite3.SQLITE_DENY
        allowed = action in _READING or (action, first) in _INTERNAL
        return sqlite3.SQLITE_OK if allowed else sqlite3.SQLITE_DENY

    return authorize


def _watch(
    connection: sqlite3.Connection, limits: Limits
) -> Callable[[], QueryError | OutOfTime | None]:
    """Stop what the connection runs at its limits; the returned function says which was reached."""
    steps = 0

    def stop() -> bool:
        nonlocal steps
        steps += _CHECK
        return steps > limits.steps or time.monotonic() > limits.until

    def overrun() -> QueryError | OutOfTime | None:
        if steps > limits.steps:
            return QueryError(f"it takes more than {limits.steps:,} steps")
        return OutOfTime() if time.monotonic() > limits.until else None

    connection.set_progress_handler(stop, _CHECK)
    return overrun


def _rows(cursor: sqlite3.Cursor, most: int) -> list[tuple[Any, ...]]:
    rows, size = list[tuple[Any, ...]](), 0
    for row in cursor:
        rows.append(row)
        size += sum(len(cell) if isinstance(cell, str | bytes) else 8 for cell in row)
        if len(rows) > most:
            raise QueryError(f"it returns more than {most:,} rows")
        if size > MAX_BYTES:
            raise QueryError(f"it returns more than {MAX_BYTES >> 20} MiB")
    return rows


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__
