"""Subset sum: choose some of the given numbers, each at most once, so that they add up to a target.

    3,5,7,2,9=16:      ->      7+9     or     5+9+2     (any order)

Most problems have many right answers, so the diversity of a policy can be measured: column
`solutions` counts the right selections. A problem is the set of its numbers and its target; a hash
of it chooses the split, so train and test share none.
"""

import random
from collections.abc import Sequence
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from rlvr.data.split import Split, problem_split


class Config(BaseModel):
    """Which problems are drawn and how they are asked."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    numbers: int = Field(default=8, ge=3, le=24)
    """How many different numbers a problem gives."""
    max_number: int = Field(default=20, ge=3, le=999)
    """Numbers are drawn from 1 to this, without repetition."""
    min_chosen: int = Field(default=2, ge=1)
    """The target is the sum of at least this many of the numbers."""
    style: Literal["compact", "words"] = "compact"
    """`compact` is `3,5,7,2,9=16:` for tiny policies; `words` is a chat message with an instruction."""
    split: Split = "train"
    """Train and test problems are disjoint; about one problem in ten is a test problem."""

    @model_validator(mode="after")
    def _possible(self) -> "Config":
        if self.max_number < self.numbers:
            raise ValueError(
                f"{self.numbers} different numbers do not fit into 1 to {self.max_number}; "
                "raise max_number or lower numbers"
            )
        if self.min_chosen >= self.numbers:
            raise ValueError(f"min_chosen must be below numbers ({self.numbers})")
        return self


def generate(config: Config, size: int, seed: int) -> list[dict[str, Any]]:
    """Return `size` different solvable problems.

    Args:
        config: Which problems.
        size: Number of rows.
        seed: The same seed gives the same rows; a larger size with the same seed extends them.

    Returns:
        Rows with `prompt`, `answer` (one right selection, joined by +), `numbers`, `target` and
        `solutions` (the number of right selections of any size).

    Raises:
        ValueError: Where fewer than `size` different problems were found.
    """
    rng = random.Random(f"subset_sum {seed}")
    seen: set[tuple[tuple[int, ...], int]] = set()
    rows: list[dict[str, Any]] = []
    misses = 0
    while len(rows) < size:
        numbers = rng.sample(range(1, config.max_number + 1), config.numbers)
        chosen = rng.sample(numbers, rng.randint(config.min_chosen, config.numbers - 1))
        problem = (tuple(sorted(numbers)), sum(chosen))
        if problem in seen or problem_split("subset_sum", problem) != config.split:
            misses += 1
            if misses > 2000 + 200 * size:
                raise ValueError(
                    f"task subset_sum: only {len(rows)} different problems of split "
                    f"{config.split!r} were found, {size} were asked for; lower size, or raise "
                    "max_number"
                )
            continue
        seen.add(problem)
        row: dict[str, Any] = {"prompt": _prompt(config, numbers, sum(chosen))}
        row |= {"answer": "+".join(map(str, chosen)), "numbers": numbers, "target": sum(chosen)}
        row["solutions"] = count_selections(numbers, sum(chosen))
        rows.append(row)
    return rows


def count_selections(numbers: Sequence[int], target: int) -> int:
    """Return how many selections of the numbers add up to the target.

    Example:
        >>> count_selections([1, 2, 3, 4], 5)
        2
    """
    ways = [1] + [0] * target
    for number in numbers:
        for total in range(target, number - 1, -1):
            ways[total] += ways[total - number]
    return ways[target]


def _prompt(config: Config, numbers: Sequence[int], target: int) -> str | list[dict[str, str]]:
    if config.style == "compact":
        return ",".join(map(str, numbers)) + f"={target}:"
    text = (
        f"Choose some of the numbers {', '.join(map(str, numbers))}, each at most once, so that "
        f"they add up to {target}. Put the chosen numbers, joined by +, in \\boxed{{}}."
    )
    return [{"role": "user", "content": text}]
