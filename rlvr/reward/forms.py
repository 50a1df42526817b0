r"""The forms of labelled completions that `rlvr reward bench` reads, recognised by their fields.

A form is a function from the fields of a row to a case; which one a file is in is said by the first
row. A bare expression is put into `\boxed{}`, as a model would state it.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from rlvr.data.read import read
from rlvr.reward.case import Beside, Case, Fields, make_case
from rlvr.reward.hack import hack_case
from rlvr.reward.wrapping import boxed

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
    return make_case(
        fields,
        "math",
        candidate,
        fields.share("label"),
        {"answer": gold, "prompt": fields.optional("question")},
        policy=fields.optional("policy"),
    )


def _human_eval(fields: Fields) -> Case:
    program = fields.text("prompt") + fields.text("canonical_solution")
    row = {"tests": fields.text("test"), "entry_point": fields.text("entry_point")}
    return make_case(fields, "code", program, 1.0, row, name=fields.text("task_id"))


def _mbpp(fields: Fields) -> Case:
    row = {"tests": fields.get("test_list", list), "setup": fields.optional("test_setup_code")}
    name = f"mbpp/{fields.row['task_id']}"
    return make_case(fields, "code", fields.text("code"), 1.0, row, name=name)


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
        return make_case(
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
        return make_case(
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
    return make_case(
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
    return make_case(
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
    return make_case(fields, verifier, text, label, row, policy=fields.optional("policy"))


def _alone(reader: Reader) -> Callable[[Beside], Reader]:
    return lambda _: reader


FORMS = (
    Form("hacks", ("kind", "domain", "expected_reward"), _alone(hack_case)),
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
