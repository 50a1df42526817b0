"""Countdown: reach a target with every given number exactly once and + - * (no parentheses).

    3,5,7,2=16:      ->      7*2+5-3

A problem usually has several right answers, so the diversity of a policy can be measured: column
`solutions` counts the distinct expressions that are right. A problem is the multiset of its
numbers and its target; a hash of it chooses the split, so train and test share none.
"""

import random
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

from rlvr.data.split import Split, problem_split

COUNT_SOLUTIONS_UP_TO = 4  # numbers; five already have 120 x 81 expressions a problem


class Config(BaseModel):
    """Which problems are drawn and how they are asked."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    numbers: int = Field(default=4, ge=2, le=6)
    """How many numbers a problem gives."""
    max_number: int = Field(default=9, ge=2, le=99)
    """Numbers are drawn from 1 to this, with repetition."""
    max_target: int = Field(default=50, ge=1)
    """Targets lie between 1 and this."""
    operators: str = "+-*"
    """Signs an answer may use."""
    style: Literal["compact", "words"] = "compact"
    """`compact` is `3,5,7,2=16:` for tiny policies; `words` is a chat message with an instruction."""
    split: Split = "train"
    """Train and test problems are disjoint; about one problem in ten is a test problem."""

    @field_validator("operators")
    @classmethod
    def _known_operators(cls, value: str) -> str:
        if not value or set(value) - set("+-*") or len(set(value)) != len(value):
            raise ValueError(f"{value!r} is not allowed; use some of the signs + - *, each once")
        return value


def generate(config: Config, size: int, seed: int) -> list[dict[str, Any]]:
    """Return `size` different solvable problems.

    Args:
        config: Which problems.
        size: Number of rows.
        seed: The same seed gives the same rows; a larger size with the same seed extends them.

    Returns:
        Rows with `prompt`, `answer` (one right expression), `numbers`, `target` and, for up to
        four numbers, `solutions` (the number of distinct right expressions).

    Raises:
        ValueError: Where fewer than `size` different problems were found.
    """
    rng = random.Random(f"countdown {seed}")
    seen: set[tuple[tuple[int, ...], int]] = set()
    rows: list[dict[str, Any]] = []
    misses = 0
    while len(rows) < size:
        numbers = [rng.randint(1, config.max_number) for _ in range(config.numbers)]
        order = rng.sample(numbers, len(numbers))
        signs = [rng.choice(config.operators) for _ in range(len(numbers) - 1)]
        answer = str(order[0]) + "".join(s + str(n) for s, n in zip(signs, order[1:], strict=True))
        target = evaluate_chain(order, signs)
        problem = (tuple(sorted(numbers)), target)
        is_new = 1 <= target <= config.max_target and problem not in seen
        if not is_new or problem_split("countdown", problem) != config.split:
            misses += 1
            if misses > 2000 + 200 * size:
                raise ValueError(
                    f"task countdown: only {len(rows)} different problems of split "
                    f"{config.split!r} were found, {size} were asked for; lower size, or raise "
                    "max_number, max_target or numbers"
                )
            continue
        seen.add(problem)
        row: dict[str, Any] = {"prompt": _prompt(config, numbers, target), "answer": answer}
        row |= {"numbers": numbers, "target": target}
        if config.numbers <= COUNT_SOLUTIONS_UP_TO:
            row["solutions"] = solution_counts(problem[0], config.operators)[target]
        rows.append(row)
    return rows


def evaluate_chain(numbers: Sequence[int], signs: Sequence[str]) -> int:
    """Return the value of numbers joined by signs, `*` before `+` and `-`.

    Example:
        >>> evaluate_chain([7, 2, 5, 3], ["*", "+", "-"])
        16
    """
    total, term = 0, numbers[0]
    for sign, number in zip(signs, numbers[1:], strict=True):
        if sign == "*":
            term *= number
        else:
            total += term
            term = number if sign == "+" else -number
    return total + term


@lru_cache(maxsize=100_000)
def solution_counts(numbers: tuple[int, ...], operators: str) -> dict[int, int]:
    """Return for each value how many distinct expressions over the numbers reach it.

    Args:
        numbers: Sorted; each is used exactly once.
        operators: Some of `+-*`.

    Example:
        >>> solution_counts((2, 3), "+-")
        {5: 2, -1: 1, 1: 1}
    """
    counts: dict[int, int] = {}

    def extend(left: tuple[int, ...], total: int, term: int) -> None:
        if not left:
            counts[total + term] = counts.get(total + term, 0) + 1
            return
        for number in sorted(set(left)):  # equal numbers give equal expressions
            index = left.index(number)
            rest = left[:index] + left[index + 1 :]
            for sign in operators:
                if sign == "*":
                    extend(rest, total, term * number)
                else:
                    extend(rest, total + term, number if sign == "+" else -number)

    for first in sorted(set(numbers)):
        index = numbers.index(first)
        extend(numbers[:index] + numbers[index + 1 :], 0, first)
    return counts


def _prompt(config: Config, numbers: Sequence[int], target: int) -> str | list[dict[str, str]]:
    if config.style == "compact":
        return ",".join(map(str, numbers)) + f"={target}:"
    text = (
        f"Use each of the numbers {', '.join(map(str, numbers))} exactly once, with the operators "
        f"{' '.join(config.operators)} and no parentheses, to write an expression that equals "
        f"{target}. Put the expression in \\boxed{{}}."
    )
    return [{"role": "user", "content": text}]
