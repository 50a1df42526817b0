"""A reasoning-gym task as a judge of answers: the package's scorer, and what it lets through.

The scorers are made for honest answers. An answer gets its score here only where that says
something about this problem:

    the scorer takes the problem's own answer
    the answer does no more than arithmetic where the scorer evaluates it
    the answer is not much longer than the problem's own
    no line of the answer would do alone, where the problem's own answer is one line
    it is not the problem's own with something else beside it, nor another number
    most other problems of the task give it a lower score
"""

import math
import re
from collections.abc import Iterator
from contextlib import redirect_stdout
from copy import deepcopy
from functools import cache, lru_cache
from io import StringIO
from itertools import islice
from typing import Any

import reasoning_gym
from reasoning_gym.factory import DATASETS

from rlvr.rewards.gym import formula
from rlvr.rewards.gym.rules import breaks_rule
from rlvr.suggest import closest

OTHERS = 5  # problems that an answer is also tried on
DRAWN = 12  # problems among which these are looked for
SEED = 20_240_229  # of these problems: far from those that users take
MAX_LINES = 64
_ROOM = 1000  # characters that an answer may be longer than ten times the problem's own

_WORD = re.compile(r"\d+(?:[.,:/]\d+)*(?![^\W_])|[^\W_]+")

Entry = dict[str, Any]


class GymTask:
    """One task of the package.

    Args:
        name: One of `DATASETS`.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self._score = reasoning_gym.get_score_answer_fn(name)
        self._evaluation = formula.evaluation(DATASETS[name][0])

    def scored(self, answer: str, entry: Entry) -> float:
        """Return the score; 0 where the scorer raises, or says no number in [0, 1]."""
        try:
            with redirect_stdout(StringIO()):  # some print
                score = float(self._score(answer, deepcopy(entry)))  # some write into the entry
        except Exception:  # whatever the answer did to it
            return 0.0
        if not 0.0 < score <= 1.0 or breaks_rule(self.name, answer, entry):
            return 0.0  # also for nan, and for more than full marks
        return score

    def judge(self, answer: str, entry: Entry, least: float) -> tuple[float, str]:
        """Return the score of an answer, or 0 and why it does not count.

        Args:
            answer: Without blanks around it.
            entry: As `readable` returns it.
            least: Scores below count as 0.
        """
        gold = own_answer(entry)
        if answer != gold and (reason := self._objection(answer, gold)):
            return 0.0, reason
        score = self.scored(answer, entry)
        if score < least or score <= 0.0:
            return 0.0, f"the task's score is {score:.3g}"
        same = gold is not None and "".join(answer.split()) == "".join(gold.split())
        if not same and (reason := self._doubt(answer, entry, score)):
            return 0.0, reason
        return score, ""

    def readable(self, entry: Entry) -> Entry | None:
        """Return the entry in the form in which the scorer takes its own answer; None if in none.

        Stored as JSON, an entry has lost its tuples, and some scorers compare with tuples.
        """
        gold = own_answer(entry)
        if gold is None:
            return entry
        for form in (entry, _with_tuples(entry)):
            if self.scored(gold, form) == 1.0 or self.scored(gold.strip(), form) == 1.0:
                return form
        return None

    def _objection(self, answer: str, gold: str | None) -> str:
        """Return why the answer is not even shown to the scorer; "" if it is."""
        if self._evaluation and not formula.is_harmless(answer, self._evaluation):
            return "no literal or plain formula, and this task evaluates what it is given"
        return "far longer than an answer" if len(answer) > 10 * len(gold or "") + _ROOM else ""

    def _doubt(self, answer: str, entry: Entry, score: float) -> str:
        """Return why the score says nothing about this problem; "" if it does."""
        gold = own_answer(entry)
        lines = [line.strip() for line in answer.split("\n") if line.strip()]
        listed = len(lines) > 1 and gold is not None and "\n" not in gold.strip()
        if listed and len(lines) > MAX_LINES:
            return "several lines"
        if listed and any(self.scored(line, entry) >= score for line in lines):
            return "several answers"
        if gold is not None and _says_more(answer, gold):
            return "the answer, and something else"
        if score == 1.0 and gold is not None and _differ(answer, gold):
            return "another number"
        if self._evaluation == "sympy":
            return ""  # a formula with names of its own problem; simplifying it takes seconds
        others = list(islice(self._others(entry), OTHERS))
        if 2 * sum(self.scored(answer, other) >= score for other in others) > len(others):
            return "scores as much on other problems of the task"
        return ""

    def _others(self, entry: Entry) -> Iterator[Entry]:
        """Yield problems of the task with another question and, where there is one, answer."""
        gold = own_answer(entry)
        for index in range(DRAWN):
            other = _example(self.name, index)
            if other is None or other["question"] == entry.get("question"):
                continue
            if gold is None or own_answer(other) != gold:
                yield other


@cache
def task(name: str) -> GymTask:
    """Return a task of the package."""
    return GymTask(name)


@cache
def _examples(name: str) -> Any:
    return reasoning_gym.create_dataset(name, seed=SEED, size=DRAWN)


@lru_cache(maxsize=1024)
def _example(name: str, index: int) -> Entry | None:
    try:
        return _examples(name)[index]
    except Exception:  # a generator of the package; the other problems do as well
        return None


def unknown_task(name: Any) -> str | None:
    """Return why the package has no such task; None if it has."""
    if isinstance(name, str) and name in DATASETS and name != "composite":
        return None
    near = closest(str(name), DATASETS)
    return f"reasoning_gym has no task {name!r}" + (f"; did you mean {near!r}?" if near else "")


def own_answer(entry: Entry) -> str | None:
    """Return the entry's own answer; None where it has none, also as the text "None"."""
    answer = entry.get("answer")
    return None if answer in (None, "None") else str(answer)


def _says_more(answer: str, gold: str) -> bool:
    """Return whether an answer holds all words of the gold, in one piece, and others beside it.

    Example:
        >>> _says_more("1540 or 300", "1540"), _says_more("1540.0", "1540"), _says_more("a b a b", "a, b")
        (True, False, False)
    """
    words, own = (
        "".join(f"<{word}>" for word in _WORD.findall(x.casefold())) for x in (answer, gold)
    )
    return bool(own) and own in words and words.replace(own, "") != ""


def _differ(answer: str, gold: str) -> bool:
    """Return whether both are numbers, and not the same one to two digits.

    Example:
        >>> _differ("0.5", "0.5625"), _differ("1,000.0", "1000"), _differ("1/2", "0.5"), _differ("a", "1")
        (True, False, False, False)
    """
    numbers = _number(answer), _number(gold)
    return None not in numbers and not math.isclose(*numbers, rel_tol=0.01, abs_tol=1e-9)  # type: ignore[arg-type]


def _number(text: str) -> float | None:
    above, slash, below = text.replace(",", "").partition("/")
    try:
        return float(above) / float(below) if slash else float(above)
    except (ValueError, ZeroDivisionError):
        return None


def _with_tuples(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _with_tuples(item) for key, item in value.items()}
    return tuple(map(_with_tuples, value)) if isinstance(value, list) else value
