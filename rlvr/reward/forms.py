r"""The forms of labelled completions that `rlvr reward bench` reads, recognised by their fields.

A form is a function from the fields of a row to a case; which one a file is in is said by the first
row. A bare expression is put into `\boxed{}`, as a model would state it.
"""

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from rlvr.data.read import read
from rlvr.reward.case import ATTACK, BENIGN, DATA_ERROR, Beside, Case, Fields
from rlvr.reward.puzzle import puzzle_row
from rlvr.reward.wrapping import boxed
from rlvr.rewards.verdict import Sample

Reader = Callable[[Fields], Case]


@dataclass(frozen=True)
class Form:
    """A layout of rows.

    Attributes:
        name: For messages.
        fields: By which it is recognised.
        reader: Returns the function that reads a row, after loading what else it needs.
    """

    name: str
    fields: tuple[str, ...]
    reader: Callable[[Beside], Reader]


def read_cases(
    path: Path, *, data: Path | None = None, limit: int | None = None
) -> tuple[str, list[Case]]:
    """Return the name of a file's form and its cases.

    Args:
        path: A file of one object a row.
        data: Folder of other files that it needs.
        limit: Rows that are read; None: all.

    Raises:
        ValueError: For what cannot be read, with file, row, field and what is allowed.
    """
    if not path.is_file():
        read(str(path))  # says which names are near
        raise ValueError(f"{path} is a folder; give one of its files")
    rows = read(str(path))[:limit]
    if not rows:
        raise ValueError(f"{path}: there is no row in it")
    form = next((form for form in FORMS if set(form.fields) <= rows[0].keys()), None)
    if form is None:
        known = "; ".join(f"{form.name}: {', '.join(form.fields)}" for form in FORMS)
        raise ValueError(
            f"{path}: what kind of bench this is cannot be told from the fields "
            f"{', '.join(rows[0])}. Known are {known}"
        )
    reader = form.reader(Beside(path, data))
    cases = [reader(Fields(row, f"{path}, row {i}")) for i, row in enumerate(rows, start=1)]
    return form.name, list(_distinct(cases))


def _distinct(cases: list[Case]) -> Iterator[Case]:
    """Yield the cases with ids that name one each."""
    seen: dict[str, int] = {}
    for case in cases:
        seen[case.id] = seen.get(case.id, 0) + 1
        number = seen[case.id]
        yield case if number == 1 else replace(case, id=f"{case.id}#{number}")


def _verifier_bench(fields: Fields) -> Case:
    candidate, gold = fields.text("candidate"), fields.text("gold")
    if fields.text("kind") == "expr" and r"\boxed" not in candidate:
        candidate = boxed(candidate)
    return _case(
        fields,
        "math",
        candidate,
        fields.share("label"),
        {"answer": gold, "prompt": fields.optional("question")},
        policy=fields.optional("policy"),
    )


def _hack(fields: Fields) -> Case:
    kind = fields.one_of("kind", {name: name for name in (ATTACK, BENIGN, DATA_ERROR)})
    columns = fields.one_of("domain", _DOMAINS)
    verifier, completion, row = columns(fields)
    return _case(
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


def _human_eval(fields: Fields) -> Case:
    program = fields.text("prompt") + fields.text("canonical_solution")
    row = {"tests": fields.text("test"), "entry_point": fields.text("entry_point")}
    return _case(fields, "code", program, 1.0, row, name=fields.text("task_id"))


def _mbpp(fields: Fields) -> Case:
    row = {"tests": fields.get("test_list", list), "setup": fields.optional("test_setup_code")}
    name = f"mbpp/{fields.row['task_id']}"
    return _case(fields, "code", fields.text("code"), 1.0, row, name=name)


def _code_samples(beside: Beside) -> Reader:
    rows = read(str(beside.find("HumanEval.jsonl.gz", "code_bench")))
    tasks = {row["task_id"]: row for row in rows if {"task_id", "prompt", "test"} <= row.keys()}

    def reader(fields: Fields) -> Case:
        name = fields.text("task_id")
        if name not in tasks:
            raise fields.error(f"task_id is {name!r}, which HumanEval.jsonl.gz does not have")
        task = tasks[name]
        row = {"tests": task["test"], "entry_point": task.get("entry_point")}
        number = fields.optional("sample_index")
        return _case(
            fields,
            "code",
            task["prompt"] + fields.text("completion"),
            fields.share("passed"),
            row,
            name=f"{name}/{number}" if number else name,
        )

    return reader


def _sql_bench(beside: Beside) -> Reader:
    databases = {
        name: ";\n".join(map(str, statements)) if isinstance(statements, list) else str(statements)
        for name, statements in beside.json("databases.json", "sql_bench").items()
    }

    def reader(fields: Fields) -> Case:
        row = {
            "answer": fields.get("gold_alternatives", list),
            "database": fields.one_of("db", databases),
            "order_matters": bool(fields.row.get("order_matters")),
        }
        return _case(
            fields,
            "sql",
            fields.text("candidate_sql"),
            fields.share("label"),
            row,
            domain=fields.text("db"),
            cls=fields.optional("category"),
        )

    return reader


def _ifeval(fields: Fields) -> Case:
    followed = fields.get("strict", list)
    if not followed or not all(isinstance(item, bool) for item in followed):
        raise fields.error(f"strict is {followed!r}; it must be a list of true and false")
    row = {
        "instruction_id_list": fields.get("instruction_id_list", list),
        "kwargs": fields.get("kwargs", list),
    }
    return _case(
        fields,
        "instructions",
        fields.text("response"),
        sum(followed) / len(followed),
        row,
        name="/".join(filter(None, (fields.optional("key"), fields.optional("model")))),
        cls=fields.optional("model"),
    )


def _puzzle(fields: Fields) -> Case:
    task, variant = fields.text("task"), fields.optional("variant")
    entry = {
        "question": fields.optional("question"),
        "answer": fields.row["gold"],
        "metadata": fields.get("metadata", dict) | {"source_dataset": task},
    }
    return _case(
        fields,
        "reasoning_gym",
        fields.text("candidate"),
        fields.share("reference_score"),
        {"entry": entry},
        name=f"{task}/{fields.place.rpartition(' ')[2]}",
        # blanks around an answer belong to the message, which verifiers here strip first
        policy="spaces" if variant == "spaces" else "",
        domain=task,
        cls=variant,
    )


def _own(completion: str, fields: Fields) -> Case:
    row = {
        "answer": fields.row.get("answer", fields.row.get("gold")),
        "prompt": fields.row.get("prompt", fields.row.get("question")) or "",
    }
    verifier = fields.optional("verifier") or "math"
    text, label = fields.text(completion), fields.share("label")
    return _case(fields, verifier, text, label, row, policy=fields.optional("policy"))


def _case(
    fields: Fields,
    verifier: str,
    completion: str,
    expected: float | None,
    row: Mapping[str, Any],
    *,
    name: str = "",
    policy: str = "",
    kind: str = "plain",
    must_not: str = "",
    **tags: str,
) -> Case:
    """Return the case; a user's function sees the fields of the file beside the columns."""
    columns = {**fields.row, **row}
    own = {tag: fields.optional(tag) for tag in ("source", "domain", "cls")} | tags
    prompt = columns.get("prompt")
    return Case(
        id=name or fields.optional("id") or fields.place.rpartition(", ")[2],
        verifier=verifier,
        sample=Sample(
            prompt=prompt if isinstance(prompt, str | list) else json.dumps(prompt),
            completion=completion,
            answer=columns.get("answer"),
            row=columns,
        ),
        expected=expected,
        kind=kind,
        policy=policy,
        tags={tag: value for tag, value in own.items() if value},
        must_not=must_not,
    )


def _alone(reader: Reader) -> Callable[[Beside], Reader]:
    return lambda _: reader


FORMS = (
    Form("hacks", ("kind", "domain", "expected_reward"), _alone(_hack)),
    Form(
        "verifier_bench", ("kind", "domain", "gold", "candidate", "label"), _alone(_verifier_bench)
    ),
    Form("human_eval", ("task_id", "prompt", "canonical_solution", "test"), _alone(_human_eval)),
    Form("mbpp", ("task_id", "code", "test_list"), _alone(_mbpp)),
    Form("code_samples", ("task_id", "completion", "passed"), _code_samples),
    Form("sql_bench", ("db", "gold_alternatives", "candidate_sql", "label"), _sql_bench),
    Form("ifeval_bench", ("instruction_id_list", "kwargs", "response", "strict"), _alone(_ifeval)),
    Form("puzzle_bench", ("task", "gold", "candidate", "reference_score"), _alone(_puzzle)),
    *(
        Form(f"rows with {name}", (name, "label"), _alone(partial(_own, name)))
        for name in ("completion", "candidate", "response")
    ),
)
