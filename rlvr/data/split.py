"""Which split a generated problem belongs to: a property of the problem, not of the run."""

import hashlib
from typing import Literal

Split = Literal["train", "test"]

TEST_EVERY = 10
"""One problem in this many is a test problem."""


def problem_split(task: str, problem: object) -> Split:
    """Return the split of a problem, the same on every machine and for every seed.

    Args:
        task: Name of the task, so that tasks with equal problems split independently.
        problem: Canonical form of the problem; its `repr` is hashed, so it must not depend on
            the order in which a problem's parts were drawn.

    Example:
        >>> problem_split("countdown", ((2, 3, 5, 7), 16))
        'train'
    """
    digest = hashlib.blake2b(f"{task} {problem!r}".encode(), digest_size=8).digest()
    return "test" if int.from_bytes(digest) % TEST_EVERY == 0 else "train"
