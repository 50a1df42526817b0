"""Scores of groups that are cut between processes; `python cut_groups.py OUT` writes what each process makes of them."""

import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).parents[2]))  # torchrun starts this file by its path

from rlvr.rewards.scorer import Scorer
from rlvr.rollout.stream import prompt_stream
from tests.rollout import scripted
from tests.trainer import tiny

REWARD = '''
def ranked(group):
    """Place in the group, its size, and how many of it say yes, as one number."""
    yes = sum(sample.completion == "yes" for sample in group)
    return [100.0 * yes + 10.0 * len(group) + place for place, _ in enumerate(group)]

def said(sample):
    if sample.completion == "no" and sample.prompt == "1": raise ValueError("no")
    return float(sample.completion == "yes")
'''
GROUP, PROMPTS = 3, 5
"""15 completions: with two processes the third group is cut, and one filler keeps them in step."""


def generation(folder: Path) -> Any:
    """Return the generation that this process sees."""
    path = folder / "rewards.py"
    path.write_text(REWARD)
    # the first of the stream are rows 0, 1, ... in this order
    rows = [0] * 8
    for place, number in enumerate(prompt_stream(8, 8, scripted.SEED)):
        rows[number] = place
    made = scripted.roller(folder, rows, None)
    verifiers = [
        f"{path}:ranked",
        {f"{path}:said": {"normalize": "group", "weight": 0.5}},
        {"exact": {"when_correct": True}},
    ]
    plan = tiny.plan(prompts_per_rollout=PROMPTS, group_size=GROUP)
    with Scorer(verifiers, workers=1, scores={"crashed": -1.0}) as scorer:
        made = replace(made, plan=plan, scorer=scorer)
        return made.generation(0, {})


def main(out: str) -> None:
    """Write rewards and metrics."""
    with tempfile.TemporaryDirectory() as folder:
        found = generation(Path(folder))
    rank = torch.distributed.get_rank() if torch.distributed.is_initialized() else 0
    records = {item["place"]: (item["reward"], item["rewards"]) for item in found.records}
    torch.save((found.rows.rewards, records, found.stats), f"{out}.{rank}")


if __name__ == "__main__":
    main(sys.argv[1])
