"""A loss or a gradient that is not a number ends the run before the optimizer steps, and says which completion it was."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from rlvr.batch import RolloutBatch
from rlvr.not_finite import FOLDER, NotFiniteError
from tests.trainer import tiny


def rollout_in_place(made: Any, rows: RolloutBatch) -> None:
    """Let training use this generation instead of sampling one."""
    made._roll_out = lambda _: made._take_rollout(rows)


def weights(made: Any) -> list[torch.Tensor]:
    return [p.detach().clone() for p in made.model.parameters()]


def check_stopped(made: Any, folder: Path, before: list[torch.Tensor], what: str) -> Path:
    with pytest.raises(NotFiniteError, match=f"update 1: the {what} is not finite"):
        made.train()
    assert all(map(torch.equal, weights(made), before))
    assert made.state.global_step == 0
    place = folder / FOLDER / "update-1"
    saved = AutoModelForCausalLM.from_pretrained(place / "policy")
    assert all(map(torch.equal, saved.parameters(), before))
    return place


def test_the_completion_that_is_to_blame_is_saved_and_the_policy_unchanged(tmp_path: Path) -> None:
    made = tiny.trainer(tmp_path, save_strategy="steps", save_steps=1)
    rows = tiny.rollout(rehearsal=False, dtype=torch.float32)
    old = rows.old_logprobs.clone()
    old[5, 0] = torch.nan
    rollout_in_place(made, replace(rows, old_logprobs=old))
    place = check_stopped(made, tmp_path, weights(made), "loss")
    [said] = map(json.loads, (place / "rank-0.jsonl").read_text().splitlines())
    assert said["row"] == 5
    assert said["not_finite"] == "log-prob at sampling, loss"
    assert said["prompt"] == "1,2,3,4=10:"
    saved = RolloutBatch(**torch.load(place / "rank-0.pt", weights_only=True))
    assert torch.equal(saved.completion_ids[0, :1], rows.completion_ids[5, :1])
    assert not list((tmp_path / "checkpoints").glob("checkpoint-*"))


def test_a_gradient_that_overflows_stops_the_run_too(tmp_path: Path) -> None:
    made = tiny.trainer(tmp_path)
    rollout_in_place(made, tiny.rollout(rehearsal=False, dtype=torch.float32))
    made.model.lm_head.weight.register_hook(lambda gradient: gradient * torch.inf)
    place = check_stopped(made, tmp_path, weights(made), "gradient")
    # no completion shows it: all of the update are there
    assert len((place / "rank-0.jsonl").read_text().splitlines()) == 8


def test_a_run_whose_numbers_are_finite_is_not_stopped(tmp_path: Path) -> None:
    made = tiny.trainer(tmp_path)
    rollout_in_place(made, tiny.rollout(rehearsal=False, dtype=torch.float32))
    before = weights(made)
    made.train()
    assert made.state.global_step == 2
    assert not all(map(torch.equal, weights(made), before))
    assert not (tmp_path / FOLDER).exists()
