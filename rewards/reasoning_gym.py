r"""Reasoning-gym: the row's entry is a problem of that package, scored by the task's own scorer.

Works for every task of the package by the name that the row's entry carries. The answer stands in
`<answer>`, in a box, or is the whole text after the thought; "The answer is" before it, \text{...}
around it and blanks at its ends do not matter. The package's scorers are made for honest answers: what
they let through (`rlvr/rewards/gym/task.py`) is refused. Needs the package: pip install 'rlvr[tasks]'.
"""

import json
import re
from collections.abc import Callable
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, Field

from rlvr.rewards.extraction import short_answer
from rlvr.rewards.verdict import Sample, Verdict, partial, skipped, unparsable

if TYPE_CHECKING:
    from rlvr.rewards.gym.task import Entry, GymTask

COLUMNS = ("entry",)
BOUNDED = False
DEADLINE = 20.0  # seconds: a new worker makes three more problems of a task
NEEDS = ("reasoning_gym", "tasks")  # package, extra of rlvr that installs it

_TEXT = re.compile(r"\\(?:text|mathrm|textbf|mathbf)\{([^{}]*)\}")
_LEAD = re.compile(r"(?:the )?(?:final )?answer(?: is)?:? *(?=\S)", re.IGNORECASE)
_BETWEEN = re.compile(r"[,|\s]+")
_LETTERS = re.compile(r"[^\W\d_]+(?:[,\s]+[^\W\d_]+)*")
_GRID = re.compile(r"[\w,| ]+(?:\n[\w,| ]+)+")


class Config(BaseModel):
    """Options of the reasoning-gym verifier."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    min_score: float = Field(default=1.0, gt=0, le=1)
    """Lowest score of the task's scorer that counts; from here to 1 it is a partial verdict. Many
    tasks pay 0.01 to 0.1 for any attempt, or for an answer among others: 1 leaves full marks only."""


def build(config: Config) -> Callable[[Sample], Verdict]:
    """Return the verifier."""
    from rlvr.rewards.gym import task as gym_task

    @lru_cache(maxsize=1024)  # the completions of a group share their entry
    def problem(text: str) -> "tuple[GymTask, Entry] | str":
        entry = json.loads(text)
        task = gym_task.task(entry["metadata"]["source_dataset"])
        readable = task.readable(entry)
        return (task, readable) if readable else "the task's scorer refuses the entry's own answer"

    def verify(sample: Sample) -> Verdict:
        if reason := fault(sample, config):
            return skipped(reason)
        found = problem(json.dumps(_entry(sample.row["entry"])))
        if isinstance(found, str):
            return skipped(found)
        task, entry = found
        answer = short_answer(sample.completion)
        if not answer:
            return unparsable("no answer")
        answer = _plain(answer, gym_task.own_answer(entry))
        score, reason = task.judge(answer, entry, config.min_score)
        return partial(score, reason or f"the task's score is {score:.3g}")

    return verify


def fault(sample: Sample, config: Config) -> str | None:  # noqa: ARG001 - every verifier takes one
    """Return why the row is no problem of a task of the package; None if it is one."""
    from rlvr.rewards.gym import task as gym_task

    entry = _entry(sample.row.get("entry"))
    if entry is None:
        return "entry is not a mapping with `metadata`, or JSON of one"
    if "answer" not in entry:
        return "entry has no `answer`; it is null where a task has no one right answer"
    return gym_task.unknown_task(entry["metadata"].get("source_dataset"))


def answer_text(sample: Sample, config: Config) -> str:  # noqa: ARG001 - every verifier takes one
    """Return a completion with the answer alone, so that equal answers are judged once."""
    answer = short_answer(sample.completion)
    alone = f"<answer>{answer}</answer>"
    return alone if answer and short_answer(alone) == answer else sample.completion


def _plain(answer: str, gold: str | None) -> str:
    """Return the answer without markup, and as the gold where only the separators differ."""
    answer = answer[found.end() :] if (found := _LEAD.match(answer)) else answer
    if whole := _TEXT.fullmatch(answer):
        answer = whole[1].strip()
    return gold if gold is not None and _same_cells(answer, gold.strip()) else answer


def _same_cells(answer: str, gold: str) -> bool:
    r"""Return whether a list of words, or a grid, is the gold with other separators.

    Example:
        >>> _same_cells("a b", "a, b"), _same_cells("1|2\n3|4", "1 2\n3 4"), _same_cells("1 2", "1, 2")
        (True, True, False)
    """
    if answer == gold:
        return True
    if _LETTERS.fullmatch(gold):
        return _BETWEEN.split(answer) == _BETWEEN.split(gold)
    return bool(_GRID.fullmatch(gold)) and _rows(answer) == _rows(gold)


def _rows(text: str) -> list[list[str]]:
    return [_BETWEEN.split(line.strip(" ,|")) for line in text.split("\n") if line.strip()]


def _entry(value: Any) -> dict[str, Any] | None:
    """Return the entry as JSON has it, or None if it is none."""
    try:
        entry = json.loads(value if isinstance(value, str) else json.dumps(value, default=str))
    except (ValueError, TypeError, RecursionError):
        return None
    well_formed = isinstance(entry, dict) and isinstance(entry.get("metadata"), dict)
    return entry if well_formed else None
