"""A verifier, a few rows, and what their completions get: what the checks of a contract look at.

A completion counts as rewarded where it gets as much as the right one of its row, so that a
function with scores of its own is judged by the same rules as one that says right or wrong.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from rlvr.reward import attack
from rlvr.reward.example import Example
from rlvr.reward.judge import UNHURRIED
from rlvr.reward.wrapping import ORDINARY, WRAPPINGS
from rlvr.rewards.scorer import Scored, Scorer
from rlvr.rewards.verdict import Sample

GIVEN = "given"
"""Instead of a wrapping: the rows say what is right and what is wrong."""

DEADLINE = 5.0
"""Seconds for a completion where the verifier does not say; a recipe's default."""

_WORDS = ("It is 42.", "I do not know.")
"""Completions of rows of which nothing better is known."""


@dataclass(frozen=True)
class Known:
    """A row with its right and wrong completion and what they got."""

    example: Example
    right: str
    wrong: str | None
    right_reward: float
    wrong_reward: float
    """nan where there is no wrong completion."""

    @property
    def passes(self) -> bool:
        """Whether the right completion gets more than the wrong one, or than nothing."""
        floor = 0.0 if self.wrong is None else self.wrong_reward
        return self.right_reward > floor  # false for nan

    def rewards(self, scored: Scored) -> bool:
        """Whether a completion of this row got as much as the right one."""
        return scored.reward >= self.right_reward  # false for nan


class Trial:
    """Scores completions of a few rows; a context manager, that ends its workers.

    Args:
        verifier: Name and options, as a recipe lists them.
        examples: At least one.
        workers: Processes; None: one a core.

    Raises:
        ValueError: For an unknown verifier or option.
    """

    def __init__(
        self,
        verifier: dict[str, dict[str, Any]],
        examples: Sequence[Example],
        workers: int | None = None,
    ) -> None:
        self.verifier = verifier
        self._workers = workers
        self.given = examples
        self.scorer = self.new_scorer()
        faults = [self.scorer.fault(example.row) for example in examples]
        self.examples = [e for e, fault in zip(examples, faults, strict=True) if fault is None]
        self.unusable = [f"row {i}: {fault}" for i, fault in enumerate(faults, start=1) if fault]
        """Why rows that were given are not tried."""

    def __enter__(self) -> "Trial":
        self.scorer.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.scorer.close()

    def new_scorer(self, workers: int | None = None) -> Scorer:
        """Return another scorer of the same verifier, without what this one remembers."""
        return Scorer(
            [self.verifier],
            workers=workers or self._workers,
            deadline=DEADLINE,
            batch_deadline=UNHURRIED,
        )

    @cached_property
    def stated(self) -> tuple[str | None, list[Known]]:
        """How the verifier reads answers, and its rows with right and wrong completions.

        The name of a wrapping, or `GIVEN`; None: no way to state an answer makes a difference.
        """
        if all(example.right is not None for example in self.examples):
            return GIVEN, self._known([(e, e.right or "", e.wrong) for e in self.examples])
        best: tuple[str | None, list[Known]] = (None, [])
        usual = ORDINARY.get(next(iter(self.verifier)), "box")
        for name in sorted(WRAPPINGS, key=lambda name: name != usual):
            wrap = WRAPPINGS[name]
            rows = []
            for example in self.examples:
                others = self.others(example)
                if example.answer is not None and others:
                    rows.append((example, wrap(str(example.answer)), wrap(others[0])))
            known = self._known(rows)
            if sum(k.passes for k in known) > sum(k.passes for k in best[1]):
                best = name, known
        return best

    def others(self, example: Example) -> list[str]:
        """Return the gold answers of other rows that differ from this row's."""
        golds = [str(item.answer) for item in self.examples if item.answer is not None]
        place = self.examples.index(example)
        turned = golds[place:] + golds[:place]  # so that rows have different wrong answers
        return [gold for gold in dict.fromkeys(turned) if gold != str(example.answer)]

    def _known(self, rows: Sequence[tuple[Example, str, str | None]]) -> list[Known]:
        texts = [(e, text) for e, *both in rows for text in both if text is not None]
        groups = [self.examples.index(e) for e, _ in texts]
        scored = iter(self.scorer.score([e.sample(text) for e, text in texts], groups))
        return [
            Known(e, right, wrong, next(scored).reward, next(scored).reward)
            if wrong is not None
            else Known(e, right, None, next(scored).reward, math.nan)
            for e, right, wrong in rows
        ]

    def in_place(self, pairs: Sequence[tuple[Known, str]]) -> list[Scored]:
        """Return what completions get in the place of the right one, beside the wrong one."""
        samples: list[Sample] = []
        groups: list[int] = []
        places = []
        for number, (known, text) in enumerate(pairs):
            beside = [known.wrong] if self.scorer.needs_groups and known.wrong is not None else []
            places.append(len(samples))
            samples += [known.example.sample(completion) for completion in (text, *beside)]
            groups += [number] * (1 + len(beside))
        scored = self.scorer.score(samples, groups)
        return [scored[place] for place in places]

    @cached_property
    def ordinary(self) -> tuple[list[Sample], list[int]]:
        """Ordinary completions, and the number of the row that each is of."""
        texts = [
            (self.examples.index(k.example), text)
            for k in self.stated[1]
            for text in (k.right, k.wrong)
            if text is not None
        ]
        texts = texts or [(i, text) for i in range(len(self.examples)) for text in _WORDS]
        return [self.examples[i].sample(text) for i, text in texts], [i for i, _ in texts]

    @cached_property
    def first(self) -> list[Scored]:
        """What the ordinary completions got, asked for the first time."""
        with self.new_scorer() as scorer:
            scorer.start()
            return scorer.score(*self.ordinary)

    @cached_property
    def hostile(self) -> dict[str, list[tuple[str, Scored]]]:
        """What completions that are hard to answer got, by the name of the check."""
        example = self.examples[0]
        texts = attack.hostile(self.stated[0])
        flat = [text for group in texts.values() for text in group]
        scored = iter(zip(flat, self.scorer.score([example.sample(t) for t in flat]), strict=True))
        return {name: [next(scored) for _ in group] for name, group in texts.items()}
