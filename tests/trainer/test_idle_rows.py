"""Completions that cannot teach are not computed, and nothing shows it: the same gradient, the same statistics."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from rlvr import aggregate, surrogate
from rlvr.batch import RolloutBatch
from rlvr.catalog import functions
from rlvr.entropy.control import Chain, build_control, chain, control_names
from rlvr.loss import Objective
from rlvr.rollout.rows import sampled_by
from tests.entropy.settings import REACHES
from tests.trainer import tiny

SCALING = ("clip_cov", "clip_higher", "steer", "top_entropy")
"""Controls that change the loss and leave a row without advantage without gradient."""


def controls(*names: str) -> Chain:
    return chain(*(build_control(name, REACHES.get(name, {})) for name in names))


def objective(*names: str, loss: Any = surrogate.clipped, **parts: Any) -> Objective:
    return Objective(loss, aggregate.token_mean, controls(*names), clip_high=0.28, **parts)


def trainer(folder: Path, made: Objective, size: int = 8) -> Any:
    plan = tiny.plan(micro_batch_size=size)
    return tiny.trainer(folder, made, plan, dtype=torch.float64)


def half_idle(made: Any, *, rehearsal: bool = False) -> RolloutBatch:
    """Return a generation of the trainer's policy; the first group of each update has no advantage."""
    rows = tiny.rollout(rehearsal=rehearsal)
    seen = made.look(rows, made._objective.chain.statistics | made._objective.chain.old_statistics)
    is_idle = (rows.group_ids % 2 == 0).unsqueeze(-1)
    rows = sampled_by(rows, seen)
    return replace(rows, advantages=rows.advantages.masked_fill(is_idle, 0.0))


def run(made: Any, rows: RolloutBatch, update: int) -> tuple[Tensor, dict[str, Any]]:
    flat = tiny.gradient(made, rows, update)
    return flat, {name: value.tolist() for name, value in made._sums.items()}


@pytest.fixture
def widths(monkeypatch: pytest.MonkeyPatch) -> Callable[[], int]:
    """Return how many rows went through the model with gradient."""
    from rlvr.trainer import Trainer

    forward, counted = Trainer._forward, [0]

    def count(self: Any, model: Any, rows: RolloutBatch, *args: Any) -> Any:
        counted[0] += len(rows) * torch.is_grad_enabled()
        return forward(self, model, rows, *args)

    monkeypatch.setattr(Trainer, "_forward", count)
    return lambda: counted[0]


@pytest.mark.parametrize("size", [8, 3, 1])
@pytest.mark.parametrize("names", [(), *((name,) for name in SCALING)])
@pytest.mark.parametrize("update", [0, 1], ids=["first update", "policy has moved"])
def test_skipping_changes_no_gradient_and_no_statistic(
    names: tuple[str, ...],
    update: int,
    size: int,
    tmp_path: Path,
    widths: Callable[[], int],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made = trainer(tmp_path, objective(*names), size)
    rows = half_idle(made)
    if update:
        with torch.no_grad():
            for parameter in made.model.parameters():
                parameter.add_(0.02 * torch.randn_like(parameter))
    gradient, sums = run(made, rows, update)
    busy = widths()
    assert busy == 4  # of eight
    monkeypatch.setattr(Objective, "idle_rows", lambda _, rows: torch.zeros(len(rows)).bool())
    whole, whole_sums = run(made, rows, update)
    assert widths() - busy == 8
    assert whole.abs().max() > 1e-6
    torch.testing.assert_close(gradient, whole, rtol=1e-9, atol=1e-12)
    assert sums.keys() == whole_sums.keys()
    if not update:
        torch.testing.assert_close(sums, whole_sums, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("names", [(), ("clip_cov",)])
def test_after_the_policy_has_moved_idle_rows_count_as_the_sampling_policy_saw_them(
    names: tuple[str, ...], tmp_path: Path
) -> None:
    made = trainer(tmp_path, objective(*names))
    rows = half_idle(made)
    assert rows.old_entropies is not None
    with torch.no_grad():
        for parameter in made.model.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))
    _, sums = run(made, rows, 1)
    now = made.look(rows).entropies
    assert now is not None
    is_idle = rows.group_ids == 2
    mine = (rows.group_ids == 3) | is_idle  # of the second update
    seen = torch.where(is_idle.unsqueeze(-1), rows.old_entropies, now)
    if made._objective.chain.measures_current_policy:
        seen = now
    total = seen[mine][rows.completion_mask[mine]].sum().item()
    assert sums["entropy"] == pytest.approx(
        [total, float(rows.completion_mask[mine].sum())], rel=1e-9
    )


def test_an_update_without_any_advantage_has_no_gradient_and_all_its_statistics(
    tmp_path: Path,
) -> None:
    made = trainer(tmp_path, objective())
    rows = half_idle(made)
    rows = replace(rows, advantages=torch.zeros_like(rows.advantages))
    gradient, sums = run(made, rows, 0)
    assert torch.equal(gradient, torch.zeros_like(gradient))
    assert sums["entropy"][1] == int(rows.completion_mask[rows.group_ids < 2].sum())


@pytest.mark.parametrize("name", control_names())
def test_a_control_says_rightly_that_it_only_scales_the_advantage(
    name: str, tmp_path: Path
) -> None:
    made = trainer(tmp_path, objective(name))
    rows = half_idle(made, rehearsal=name == "dph")
    with torch.no_grad():
        for parameter in made.model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    rows = replace(rows, advantages=torch.zeros_like(rows.advantages))
    chosen = controls(name)
    assert chosen.scales_advantage == (chosen.controls[0].apply is None or name in SCALING)
    gradients = []
    for part in made.parts(rows, 1, with_idle_rows=True):
        made.model.zero_grad()
        part.loss.backward()
        gradients += [p.grad.abs().max() for p in made.model.parameters() if p.grad is not None]
    if chosen.scales_advantage:
        assert max(gradients) == 0


@pytest.mark.parametrize("name", functions("surrogate"))
def test_no_surrogate_has_a_gradient_without_advantage(name: str, tmp_path: Path) -> None:
    made = trainer(tmp_path, objective(loss=getattr(surrogate, name)))
    rows = half_idle(made)
    rows = replace(
        rows,
        advantages=torch.zeros_like(rows.advantages),
        old_logprobs=rows.old_logprobs + torch.randn_like(rows.advantages),
    )
    for part in made.parts(rows, 0, with_idle_rows=True):
        part.loss.backward()
    for parameter in made.model.parameters():
        assert parameter.grad is None or parameter.grad.abs().max() == 0


def test_a_row_teaches_by_the_kl_to_the_reference_too() -> None:
    rows = tiny.rollout(rehearsal=False)
    rows = replace(rows, advantages=torch.zeros_like(rows.advantages))
    assert objective().idle_rows(rows).all()
    assert not objective(kl_coef=0.1).idle_rows(rows).any()
    assert not objective("entropy_bonus").idle_rows(rows).any()
    assert objective("overlong").idle_rows(rows).all()


def test_a_row_with_one_advantage_that_counts_is_not_idle() -> None:
    rows = tiny.rollout(rehearsal=False)
    advantages = torch.zeros_like(rows.advantages)
    advantages[3, 0] = 0.1
    advantages[5, -1] = 0.1  # where the row may have no token
    idle = objective().idle_rows(replace(rows, advantages=advantages))
    assert not idle[3]
    assert idle[5] == (not rows.mask[5, -1])
    assert idle.sum() >= len(rows) - 2
