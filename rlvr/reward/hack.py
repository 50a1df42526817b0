"""Rows of attacks on verifiers with their benign twins: a row's domain says which verifier it is for."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from rlvr.reward.case import ATTACK, BENIGN, DATA_ERROR, Case, Fields, make_case
from rlvr.reward.puzzle import puzzle_row


def hack_case(fields: Fields) -> Case:
    """Return the case of a row."""
    kind = fields.one_of("kind", {name: name for name in (ATTACK, BENIGN, DATA_ERROR)})
    columns = fields.one_of("domain", _DOMAINS)
    verifier, completion, row = columns(fields)
    return make_case(
        fields,
        verifier,
        completion,
        fields.share("expected_reward"),
        row,
        kind=kind,
        policy=fields.optional("policy"),
        cls=fields.optional("category"),
        must_not=fields.optional("must_not"),
    )


Columns = tuple[str, str, Mapping[str, Any]]
"""Verifier, completion and row of a case."""


def _hack_answer(verifier: str, fields: Fields) -> Columns:
    return verifier, _completion(fields), {"answer": fields.text("gold")}


def _hack_format(fields: Fields) -> Columns:
    return "format", _completion(fields), {}


def _hack_code(fields: Fields) -> Columns:
    tests = fields.row.get("tests_stdio") or fields.row.get("tests_assert")
    tests = tests or fields.row.get("tests_io")
    if not tests:
        raise fields.error("no tests: one of tests_stdio, tests_assert, tests_io is needed")
    entry_point = fields.row.get("entry_point")
    return "code", fields.text("code"), {"tests": tests, "entry_point": entry_point}


def _hack_sql(fields: Fields) -> Columns:
    row = {
        "answer": fields.text("gold_sql"),
        "database": fields.get("databases", list),
        "order_matters": bool(fields.row.get("order_matters")),
    }
    return "sql", fields.text("sql"), row


def _hack_instruction(fields: Fields) -> Columns:
    constraint = dict(fields.get("constraint", dict))
    name = constraint.pop("id", None)
    if not isinstance(name, str):
        raise fields.error("constraint has no id, the name of an instruction")
    row = {"instruction_id_list": [name], "kwargs": [constraint]}
    return "instructions", _completion(fields), row


def _hack_puzzle(fields: Fields) -> Columns:
    verifier, row = puzzle_row(fields)
    return verifier, _completion(fields), row


_DOMAINS: dict[str, Callable[[Fields], Columns]] = {
    "math": partial(_hack_answer, "math"),
    "numeric": partial(_hack_answer, "numeric"),
    "mcq": partial(_hack_answer, "choice"),
    "format": _hack_format,
    "code": _hack_code,
    "sql": _hack_sql,
    "ifeval": _hack_instruction,
    "puzzle": _hack_puzzle,
}


def _completion(fields: Fields) -> str:
    """Return the completion, or what its segments (text, times) join to."""
    segments = fields.row.get("completion_segments")
    if segments is None:
        return fields.get("completion", str)
    try:
        return "".join(text * times for text, times in segments)
    except (TypeError, ValueError):
        raise fields.error("completion_segments must be a list of [text, times]") from None
