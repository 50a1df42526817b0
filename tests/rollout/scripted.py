"""A policy whose completions are written down; `python scripted.py OUT` writes what generations make of it.

Row r of the data is answered by rule `r % 4`: 0 always right, 1 always wrong, 2 and 3 right in every other completion.
A completion's tokens are its row, the number of the call and its place, so that rows can be recognised.
"""

import sys
import tempfile
from collections.abc import Collection, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).parents[2]))  # torchrun starts this file by its path

from accelerate import Accelerator

from rlvr.advantage import group_zscore
from rlvr.aggregate import token_mean
from rlvr.batch import RolloutBatch, Seen
from rlvr.entropy.control import Chain
from rlvr.loss import Objective
from rlvr.processes import Processes
from rlvr.rewards.scorer import Scorer
from rlvr.rollout.completion import Completion
from rlvr.rollout.difficulty import Difficulty, Memory
from rlvr.rollout.dynamic import DynamicSampling, Supply
from rlvr.rollout.generation import Generation, Roller
from rlvr.surrogate import clipped
from tests.trainer import tiny

PROMPTS, GROUP = 4, 2
SEED = 8
"""Of the stream: the first rollout needs refills and leaves groups over."""


class Scripted:
    """A `Policy`; `version` is what an update would change."""

    pad_token = 0

    def __init__(self) -> None:
        self.processes = Processes(Accelerator(cpu=True))
        self.version = 0
        self.calls = 0
        self.looked = 0

    def complete(
        self,
        prompts: list[Any],
        *,
        seeds: Sequence[int],  # noqa: ARG002
        temperature: float | None = None,  # noqa: ARG002
    ) -> list[Completion]:
        self.calls += 1
        first = self.processes.rank * len(prompts)
        found = []
        for place, prompt in enumerate(prompts, start=first):
            row = int(prompt)
            is_right = (True, False, place % 2 == 0, place % 2 == 1)[row % 4]
            found.append(
                Completion(
                    prompt_ids=[row + 1] * (1 + row % 3),
                    completion_ids=[row + 1, self.calls, place + 1][: 3 - row % 2],
                    text="yes" if is_right else "no",
                    truncated=False,
                    sampling_logprobs=None,
                )
            )
        return found

    def look(self, rows: RolloutBatch, names: Collection[str] = ()) -> Seen:
        self.looked += len(rows)
        values = -rows.completion_ids.float() - 100 * self.version
        values = values.masked_fill(~rows.completion_mask, 0.0)
        return Seen(values, -values, dict.fromkeys(names, values))

    def reference_logprobs(self, rows: RolloutBatch) -> torch.Tensor:
        return rows.completion_ids.float()

    def tokens_with(self, text: str) -> torch.Tensor:
        raise AssertionError(text)


def roller(
    folder: Path,
    rows: list[int],
    dynamic: DynamicSampling | None,
    *,
    chain: Chain | None = None,
    **options: Any,
) -> Roller:
    """Return a roller over data whose rows are answered by these rules."""
    return Roller(
        policy=Scripted(),
        rows=[{"prompt": str(row), "answer": "yes"} for row in rows],
        scorer=Scorer(["exact"]),
        advantage=group_zscore,
        objective=Objective(clipped, token_mean, chain or Chain()),
        plan=tiny.plan(prompts_per_rollout=PROMPTS, group_size=GROUP),
        folder=folder,
        mask_truncated=False,
        seed=SEED,
        dynamic=dynamic,
        **options,
    )


def generations(made: Roller, count: int, state: Any = None) -> list[Generation]:
    """Return generations in a row, the policy another one for each."""
    supply, found = Supply(), []
    for update in range(count):
        found.append(made.generation(update, state or {}, supply))
        supply = found[-1].supply
        made.policy.version += 1  # type: ignore[attr-defined]
    return found


def sources(rows: RolloutBatch) -> list[int]:
    """Return the row of the data of each group."""
    return [int(ids[0]) - 1 for ids in rows.completion_ids[::GROUP]]


def difficulty(rows: int, **changes: Any) -> Difficulty:
    """Return what remembers this many prompts and, but for the changes, neither leaves out nor prefers any."""
    options = {"memory": 0.5, "min_pass_rate": 0.0, "max_pass_rate": 1.0, "min_visits": 1}
    options |= {"revisit_after": 4.0, "weight_floor": None, "start": Memory.blank(rows)}
    return Difficulty(**(options | changes))


FILTER = {"min_pass_rate": 0.1, "max_pass_rate": 0.9}
LEFTOVERS = DynamicSampling(3, keep_leftovers=True)
CASES: dict[str, tuple[Sequence[int], DynamicSampling | None, Difficulty | None]] = {
    "leftovers": (range(16), LEFTOVERS, None),
    "no leftovers": (range(16), DynamicSampling(3, keep_leftovers=False), None),
    "fillers": ([0, 1, 2, 4, 5, 8, 9, 12, 13, 16], DynamicSampling(1, keep_leftovers=True), None),
    "filter": (range(9), None, difficulty(9, **FILTER, revisit_after=1.0)),
    "weights": (range(9), LEFTOVERS, difficulty(9, weight_floor=0.05)),
}


def main(out: str) -> None:
    """Write rows, statistics and supplies of every case."""
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, (rows, dynamic, remembered) in CASES.items():
            made = roller(Path(folder), list(rows), dynamic, difficulty=remembered)
            found[name] = [
                (
                    {key: value for key, value in vars(item.rows).items() if value is not None}
                    | ({} if item.supply.memory is None else vars(item.supply.memory)),
                    {key: value for key, value in item.stats.items() if "time" not in key},
                    replace(item.supply, leftovers=None, memory=None),
                )
                for item in generations(made, 4)
            ]
    rank = torch.distributed.get_rank() if torch.distributed.is_initialized() else 0
    torch.save(found, f"{out}.{rank}")


if __name__ == "__main__":
    main(sys.argv[1])
