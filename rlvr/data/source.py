"""A recipe's data source -> rows `{"prompt", "answer", "task", ...}`.

    read -> map columns -> leave out broken rows -> template, system -> deduplicate -> shuffle -> limit

A prompt that is text goes to the model as it is. It becomes chat messages, for which the model's
chat template is used, by `system`; an empty one (`system: ""`) adds no system message.
"""

import json
import logging
import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path as FilePath
from typing import TYPE_CHECKING, Any

from rlvr.data.layout import (
    DETECTED,
    PROMPT_COLUMNS,
    Misfit,
    Row,
    choose_columns,
    describe_columns,
    mapped,
)
from rlvr.data.length import NO_TEMPLATE, drop_long_prompts
from rlvr.data.read import read
from rlvr.data.task import generate_task
from rlvr.recipe_error import Path, dotted, refuse

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from rlvr.recipe import DataSource

logger = logging.getLogger(__name__)

Fault = Callable[[Row], str | None]

UNUSABLE = "broken: no completion could be judged"

TASK_SIZE = 512
"""Rows of a procedural task where the recipe does not say."""


def load_rows(
    source: "DataSource",
    *,
    at: Path = ("data",),
    tokenizer: "PreTrainedTokenizerBase | None" = None,
    max_prompt_length: int | None = None,
    needed: Iterable[str] = (),
    fault: Fault | None = None,
    leave_out: bool = False,
) -> list[Row]:
    """Return the rows of a data source, ready for the trainer.

    What was left out is logged once: as a warning where rows were broken.

    Args:
        source: Section of a recipe.
        at: Its place in the recipe, for messages.
        tokenizer: Needed to leave out long prompts.
        max_prompt_length: Tokens; longer prompts are left out before `limit` counts. None: none.
        needed: Columns without which nothing can be judged (`Scorer.columns`).
        fault: Says why no completion of a row can be judged, or None (`Scorer.fault`).
        leave_out: Such rows are left out; False: they are an error.

    Returns:
        Rows with `prompt` (text or chat messages), `answer`, `task` and the other columns that are
        JSON.

    Raises:
        RecipeError: For a source that cannot be read, a missing column, or no row left.
    """
    if (source.path is None) == (source.task is None):
        refuse(at, ": exactly one of path and task is needed; set one of them")
    try:
        numbered, counts = _task_rows(source) if source.task is not None else _path_rows(source)
    except Misfit as error:
        refuse((*at, *error.key), str(error))
    except ValueError as error:
        refuse((*at, "path" if source.task is None else "task"), f": {error}")
    check_columns(list(numbered.values()), needed, at=at)
    if fault is not None:
        numbered, counts[UNUSABLE] = _judgeable(numbered, fault, at=at, leave_out=leave_out)
    rows = list(numbered.values())
    if source.deduplicate:
        rows, repeated, conflicting = deduplicate(rows)
        counts["with a prompt that occurred before"] = repeated
        counts["of these with another answer (the first is kept)"] = conflicting
    random.Random(source.seed).shuffle(rows)
    if tokenizer is not None:
        _check_template(source, rows, tokenizer, at)
    if tokenizer is not None and max_prompt_length is not None:
        try:
            rows, long = drop_long_prompts(rows, tokenizer, max_prompt_length)
        except ValueError as error:
            refuse((*at, "max_prompt_length"), f": {error}")
        counts[f"with a prompt longer than {max_prompt_length} tokens"] = long
    rows = rows[: source.limit]
    left_out = "; ".join(f"{count} {reason}" for reason, count in counts.items() if count)
    level = logging.WARNING if any("broken" in r and c for r, c in counts.items()) else logging.INFO
    where = source.path or source.task
    logger.log(
        level,
        "%s: %d rows of %s%s",
        dotted(at),
        len(rows),
        where,
        left_out and f"; left out: {left_out}",
    )
    return rows


def _judgeable(
    rows: Mapping[int, Row], fault: Fault, *, at: Path, leave_out: bool
) -> tuple[dict[int, Row], int]:
    """Return the rows that can be judged, and how many cannot; RecipeError where that is an error."""
    reasons = {number: fault(row) for number, row in rows.items()}
    faulty = [number for number, reason in reasons.items() if reason is not None]
    if faulty and (not leave_out or len(faulty) == len(rows)):
        first = rows[faulty[0]]
        answer = "" if first["answer"] is None else f"its answer is {first['answer']!r:.80}, "
        refuse(
            at,
            f": row {faulty[0]} cannot be judged: {reasons[faulty[0]]}; {answer}its prompt is "
            f"{prompt_text(first['prompt'])!r:.80}. {len(faulty)} of {len(rows)} rows are like that: repair the "
            "data or map other columns, or leave such rows out with rewards.unusable_rows=leave_out",
        )
    return {number: row for number, row in rows.items() if reasons[number] is None}, len(faulty)


def _check_template(
    source: "DataSource", rows: Sequence[Row], tokenizer: "PreTrainedTokenizerBase", at: Path
) -> None:
    """Raise RecipeError where the prompts are chat messages that the model's template cannot render."""
    from jinja2 import TemplateError

    chats = [row["prompt"] for row in rows if isinstance(row["prompt"], list)]
    key = (*at, "path" if source.system is None else "system")
    if chats and not tokenizer.chat_template:
        refuse(key, NO_TEMPLATE)
    # of every sequence of roles one: a template refuses by these
    for prompt in {tuple(message["role"] for message in chat): chat for chat in chats}.values():
        try:
            tokenizer.apply_chat_template(prompt, tokenize=False, add_generation_prompt=True)
        except TemplateError as error:
            roles = ", ".join(message["role"] for message in prompt)
            text = f": the chat template of the model refuses messages of the roles {roles} ({error}); set "
            refuse(
                key,
                f"{text}{dotted((*at, 'system'))}='' to leave the system message out, or take another tokenizer",
            )


def deduplicate(rows: Sequence[Row]) -> tuple[list[Row], int, int]:
    """Return the first row of each prompt, how many others there were, how many of these disagree.

    Args:
        rows: With `prompt` and `answer`.

    Returns:
        Rows, number left out, and how many of those had another answer than the row kept.
    """
    first: dict[str, Row] = {}
    repeated = conflicting = 0
    for row in rows:
        kept = first.setdefault(prompt_text(row["prompt"]), row)
        if kept is not row:
            repeated += 1
            conflicting += kept["answer"] != row["answer"]
    return list(first.values()), repeated, conflicting


def prompt_text(prompt: str | list[dict[str, str]]) -> str:
    """Return a prompt as one text; prompts are equal where these are.

    Example:
        >>> prompt_text([{"role": "user", "content": "1+1="}])
        'user: 1+1='
    """
    if isinstance(prompt, str):
        return prompt
    return "\n".join(f"{message['role']}: {message['content']}" for message in prompt)


def missing_columns(rows: Sequence[Mapping[str, Any]], needed: Iterable[str]) -> list[str]:
    """Return those of the needed columns that no row has.

    Example:
        >>> missing_columns([{"prompt": "1+1=", "answer": "2"}], ["answer", "target"])
        ['target']
    """
    return [column for column in needed if all(row.get(column) is None for row in rows)]


def check_columns(rows: Sequence[Row], needed: Iterable[str], *, at: Path = ("data",)) -> None:
    """Raise RecipeError where a column that the verifiers need is in no row.

    Args:
        rows: As returned by `load_rows`.
        needed: `Scorer.columns`.
        at: Place of the source in the recipe.
    """
    for column in missing_columns(rows, needed):
        path = (*at, "columns", column)
        text = (
            f": the verifiers need a column {column!r}, which no row has."
            f"{describe_columns(rows, column)} Map it with {dotted(path)}=COLUMN, "
            "or choose other rewards.verifiers"
        )
        refuse(path, text)


def _task_rows(source: "DataSource") -> tuple[dict[int, Row], dict[str, int]]:
    assert source.task is not None
    size = source.size if source.size is not None else TASK_SIZE
    rows = generate_task(
        source.task, source.task_options, size=size, seed=source.seed, split=source.split
    )
    for row in rows:
        row["prompt"] = _with_system(row["prompt"], source.system)
    return dict(enumerate(rows)), {}


def _path_rows(source: "DataSource") -> tuple[dict[int, Row], dict[str, int]]:
    """Return usable rows by their number in the data set, and how many are not usable and why."""
    assert source.path is not None
    path = source.path
    raw = read(path, split=source.split, revision=source.revision, subset=source.subset)
    if not raw:
        raise ValueError(f"{path}: the data set is empty; check path and split")
    mapping = _mapping(source, path, raw)
    task = FilePath(path).name.split(".")[0]
    rows: dict[int, Row] = {}
    reasons = {"broken: no prompt": 0, "broken: no answer": 0}
    for number, record in enumerate(raw):
        row = _row(record, mapping, source, path=path, raw=raw, task=task)
        if not _is_prompt(row["prompt"]):
            reasons["broken: no prompt"] += 1
        elif "answer" in mapping and _is_blank(row["answer"]):
            reasons["broken: no answer"] += 1
        else:
            rows[number] = row
    if not rows:
        counts = ", ".join(f"{count} {reason}" for reason, count in reasons.items() if count)
        raise ValueError(
            f"{path}: none of the {len(raw)} rows is usable ({counts}), with prompt from "
            f"{mapping.get('prompt') or 'the template'} and answer from {mapping.get('answer')}."
            f"{describe_columns(raw, '')} Map others with columns"
        )
    return rows, reasons


def _mapping(source: "DataSource", path: str, raw: Sequence[Row]) -> dict[str, str]:
    """Return our column -> theirs: what the recipe says, and what is detected for the rest."""
    mapping = choose_columns(raw, source.columns, DETECTED, where=path)
    if "prompt" not in mapping and source.template is None:
        text = (
            f": {path} has no column for the prompt (looked for {', '.join(PROMPT_COLUMNS)})."
            f"{describe_columns(raw, 'prompt')} Map it with columns: {{prompt: COLUMN}}"
        )
        raise Misfit(("columns",), text)
    return mapping


def _row(
    record: Row,
    mapping: Mapping[str, str],
    source: "DataSource",
    *,
    path: str,
    raw: Sequence[Row],
    task: str,
) -> Row:
    found: Row = {"answer": None} | mapped(record, mapping, source.columns)
    if not isinstance(found.get("task"), str):
        found["task"] = task
    prompt = found.get("prompt")
    if source.template is not None and (prompt is None or _is_prompt(prompt)):
        prompt = _fill(source.template, prompt, record | found, path=path, raw=raw)
    if _is_prompt(prompt):
        prompt = _with_system(prompt, source.system)
    others = {key: value for key, value in record.items() if _is_json(value)}
    return others | found | {"prompt": prompt}


def _fill(template: str, prompt: Any, columns: Row, *, path: str, raw: Sequence[Row]) -> Any:
    """Return the prompt from the template; of chat messages the last user message is filled."""
    if isinstance(prompt, list):
        place = max((i for i, m in enumerate(prompt) if m["role"] == "user"), default=-1)
        if place < 0:
            return prompt
        columns = columns | {"prompt": prompt[place]["content"]}
    try:
        text = template.format(**columns)
    except KeyError as error:
        unknown = str(error.args[0])
        text = (
            f"has a field {{{unknown}}}, which is no column of {path}."
            f"{describe_columns(raw, unknown)} Write {{{{ and }}}} for braces that are text"
        )
        raise Misfit(("template",), text) from None
    except (ValueError, IndexError, AttributeError, TypeError) as error:
        text = (
            f"is not a format string for {path} ({error}). Write {{{{ and }}}} for braces that are text, as in "
            "\\boxed{{}}"
        )
        raise Misfit(("template",), text) from None
    if not isinstance(prompt, list):
        return text
    return [*prompt[:place], prompt[place] | {"content": text}, *prompt[place + 1 :]]


def _with_system(prompt: Any, system: str | None) -> Any:
    if system is None:
        return prompt
    messages = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt
    messages = [message for message in messages if message["role"] != "system"]
    return [{"role": "system", "content": system}, *messages] if system else messages


def _is_blank(value: Any) -> bool:
    is_nan = isinstance(value, float) and value != value
    return (
        value is None or is_nan or (isinstance(value, str | list | dict) and not _stripped(value))
    )


def _stripped(value: Any) -> Any:
    return value.strip() if isinstance(value, str) else value


def _is_prompt(value: Any) -> bool:
    """Return whether this is text, or chat messages that say something."""
    if isinstance(value, str):
        return bool(value.strip())
    if not isinstance(value, list):
        return False
    messages = all(
        isinstance(message, dict)
        and isinstance(message.get("role"), str)
        and isinstance(message.get("content"), str)
        for message in value
    )
    return messages and any(m["content"].strip() for m in value if m["role"] != "system")


def _is_json(value: Any) -> bool:
    try:
        json.dumps(value)
    except (TypeError, ValueError):
        return False
    return True
