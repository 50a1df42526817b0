"""SQL: the query returns what the gold query returns, on every database of the row (SQLite).

The query is the last fenced block (```sql) after the thought, or the whole text where there is no
fence. It runs read-only and bounded (`database/sqlite.py`), on a connection of its own. Give at least two
databases with different rows: with one, a query that only prints the expected rows passes.
"""

import os
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from rlvr.rewards.database.result_sets import Mode, same_columns_in_any_order, same_rows
from rlvr.rewards.database.sqlite import (
    Limits,
    OutOfTime,
    QueryError,
    Result,
    is_script,
    limit_memory,
    run,
)
from rlvr.rewards.extraction import after_thought, last_tag
from rlvr.rewards.fenced import last_block
from rlvr.rewards.verdict import (
    CORRECT,
    Outcome,
    Sample,
    Verdict,
    skipped,
    unparsable,
    wrong,
)

COLUMNS = ("answer", "database")
OPTIONAL_COLUMNS = ("order_matters",)
BOUNDED = False

_LABELS = ("sql", "sqlite", "sqlite3", "mysql", "postgres", "postgresql")
_QUERY = re.compile(
    r"(?>\s++|--[^\n]*+|/\*.*?\*/)*+(?:select|with|values)\b", re.IGNORECASE | re.DOTALL
)
_TOKEN = re.compile(
    r"""'(?:[^']|'')*+'|"(?:[^"]|"")*+"|`[^`]*+`|\[[^\]]*+\]|--[^\n]*+|/\*.*?\*/|\w++|[()]""",
    re.DOTALL,
)
_TRUTH = {"true": True, "1": True, "false": False, "0": False}
_CLOCK = re.compile(
    r"'now'|\bcurrent_|\b(?:date|time|datetime|julianday|unixepoch)\s*\(\s*\)", re.I
)


class Config(BaseModel):
    """Options of the sql verifier."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    rows: Literal["auto", "set", "bag", "ordered"] = "auto"
    """How results are compared: ordered, row by row; bag, in any order; set, duplicates do not count
    either. auto: ordered where the column `order_matters` says so, or, without that column, where the
    gold query has an ORDER BY of its own; else bag."""
    columns: Literal["ordered", "any"] = "ordered"
    """any: the columns may stand in any order. Their names never matter."""
    tolerance: float = Field(default=1e-9, ge=0, lt=1)
    """Relative, of floats that are not whole numbers."""
    path: str = "{database}"
    """Where the file of a `database` that is not a script lies: `spider/{database}/{database}.sqlite`."""
    max_rows: int = Field(default=10_000, ge=1)
    """Rows of a result; a query that returns more is wrong."""
    max_steps: int = Field(default=20_000_000, ge=1)
    """Steps of SQLite's virtual machine for one query, about 40 million a second; more is wrong."""
    seconds: float = Field(default=4.0, gt=0, allow_inf_nan=False)
    """For all queries of one verdict; past it the verdict is a timeout."""


def DEADLINE(config: Config) -> float:
    """Return the seconds after which the worker is killed: some functions cannot be stopped."""
    return config.seconds + 1.0


@dataclass(frozen=True)
class _Gold:
    mode: Mode
    results: tuple[Result, ...]
    """One for each database."""


class _Unusable(ValueError):
    """The row has no gold result; the text says why."""


def build(config: Config) -> Callable[[Sample], Verdict]:
    """Return the verifier."""

    def verify(sample: Sample) -> Verdict:
        limit_memory()
        limits = _limits(config)
        try:
            golds = _golds(sample, config, limits)
            query = find_query(sample.completion)
            if query is None:
                return unparsable("no query: a SELECT, WITH or VALUES statement in a closed block")
            return _judge(query, _databases(sample, config), golds, config, limits)
        except _Unusable as reason:
            return skipped(str(reason))
        except OutOfTime:
            return Verdict(Outcome.TIMEOUT, reason=f"no result within {config.seconds:g} s")

    return verify


def fault(sample: Sample, config: Config) -> str | None:
    """Return why the row cannot be judged: no database, or no gold query that returns rows."""
    try:
        _golds(sample, config, _limits(config))
    except _Unusable as reason:
        return str(reason)
    except OutOfTime:
        return f"the gold query takes more than {config.seconds:g} s; raise `seconds`"
    return None


def answer_text(sample: Sample, config: Config) -> str:  # noqa: ARG001 - every verifier takes one
    """Return the query alone, which gets the verdict of the completion."""
    query = find_query(sample.completion)
    return query if query is not None and find_query(query) == query else sample.completion


def find_query(completion: str) -> str | None:
    r"""Return the query of a completion; None where there is none.

    Example:
        >>> find_query("Thus:\n```sql\nSELECT 1;\n```")
        'SELECT 1'
    """
    text = after_thought(completion)
    if text is None:
        return None
    tagged = last_tag(text)
    text = text if tagged is None else tagged
    block = last_block(text, _LABELS)
    if block is not None:
        text = block.content if block.closed else ""
    query = text.strip().rstrip("; \t\r\n")
    return query if _QUERY.match(query) else None


def is_ordered(query: str) -> bool:
    """Return whether the query itself has an ORDER BY: one outside of parentheses.

    Example:
        >>> is_ordered("SELECT a FROM t ORDER BY a"), is_ordered("SELECT * FROM (SELECT 1 ORDER BY 1)")
        (True, False)
    """
    depth, before = 0, ""
    for token in (match[0].lower() for match in _TOKEN.finditer(query)):
        if token.startswith(("--", "/*")):
            continue
        depth += (token == "(") - (token == ")")
        if depth == 0 and (before, token) == ("order", "by"):
            return True
        before = token
    return False


def _limits(config: Config) -> Limits:
    return Limits(config.max_rows, config.max_steps, time.monotonic() + config.seconds)


def _judge(
    query: str,
    databases: Sequence[str],
    golds: Sequence[_Gold],
    config: Config,
    limits: Limits,
) -> Verdict:
    """Return the verdict: one gold must agree on all databases."""
    left, reads = list(golds), False
    for place, database in enumerate(databases):
        where = f" on database {place + 1}" if len(databases) > 1 else ""
        try:
            found = run(query, database, limits)
        except QueryError as error:
            return wrong(f"{error}{where}")
        reads = reads or found.reads
        differs = [_difference(gold.results[place], found, gold.mode, config) for gold in left]
        left = [gold for gold, reason in zip(left, differs, strict=True) if not reason]
        if not left:
            return wrong(f"{differs[0]}{where}")
    if not reads and any(result.reads for gold in left for result in gold.results):
        return wrong("the query reads no table: it only prints rows")
    return CORRECT


def _difference(gold: Result, found: Result, mode: Mode, config: Config) -> str:
    """Return how a result differs from the gold's; "" where it does not."""
    if found.width != gold.width:
        return f"{found.width} columns instead of {gold.width}"
    if mode != "set" and len(found.rows) != len(gold.rows):
        return f"{len(found.rows)} rows instead of {len(gold.rows)}"
    same = same_rows if config.columns == "ordered" else same_columns_in_any_order
    if same(gold.rows, found.rows, mode, config.tolerance):
        return ""
    if mode == "ordered" and same(gold.rows, found.rows, "bag", config.tolerance):
        return "the rows are in another order"
    return "other rows"


def _golds(sample: Sample, config: Config, limits: Limits) -> list[_Gold]:
    """Return the accepted queries' results; those that fail or return nothing are left out."""
    databases = _databases(sample, config)
    ordered = _order_matters(sample)
    golds, reasons = list[_Gold](), list[str]()
    for query in _texts(sample.answer, "gold query"):
        try:
            results = tuple(_gold_result(query, item, limits, _now(query)) for item in databases)
        except QueryError as error:
            reasons.append(f"the gold query fails: {error}")
            continue
        if any(result.rows for result in results):
            golds.append(_Gold(_mode(query, ordered, config), results))
        else:
            reasons.append("the gold query returns no rows, so any wrong query could agree")
    if not golds:
        raise _Unusable(reasons[0])
    return golds


def _mode(query: str, ordered: bool | None, config: Config) -> Mode:
    if config.rows != "auto":
        return config.rows
    return "ordered" if (is_ordered(query) if ordered is None else ordered) else "bag"


@lru_cache(maxsize=16)
def _gold_result(query: str, database: str, limits: Limits, _now: int) -> Result:
    """Return a gold's result; the completions of a group ask for the same one."""
    return run(query, database, limits)


def _now(query: str) -> int:
    """Return the time where the query's result depends on it, else 0."""
    return int(time.time()) if _CLOCK.search(query) else 0


def _order_matters(sample: Sample) -> bool | None:
    given = sample.row.get("order_matters")
    if given is None:
        return None
    if (matters := _TRUTH.get(str(given).lower())) is None:
        raise _Unusable(f"order_matters is {given!r:.80}; it must be true, false or null")
    return matters


def _databases(sample: Sample, config: Config) -> list[str]:
    """Return the scripts and paths that the row names."""
    found = []
    for database in _texts(sample.row.get("database"), "database"):
        if not is_script(database):
            database = config.path.replace("{database}", database)
            if not os.path.isfile(database):  # Path.is_file raises for a long name
                raise _Unusable(f"database: no file {database:.300}")
        found.append(database)
    return found


def _texts(given: Any, what: str) -> list[str]:
    items = list(given) if isinstance(given, list | tuple) else [given]
    if not items or not all(isinstance(item, str) and item.strip() for item in items):
        raise _Unusable(f"the row's {what} is {given!r:.80}; it must be a text, or a list of texts")
    return items
