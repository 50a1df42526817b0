"""The same generation gives the same gradient, however its updates are cut into micro-batches."""

from pathlib import Path
from typing import Any

import pytest
import torch

from rlvr import aggregate, surrogate
from rlvr.entropy.control import build_control, chain, control_names
from rlvr.loss import Objective
from tests.entropy.settings import REACHES
from tests.trainer import tiny

OPTIONS: dict[str, dict[str, Any]] = dict(REACHES)
CHAINS = [[], *([name] for name in control_names()), ["steer", "dph"]]
CUTS = [
    {"micro_batch_size": 8},
    {"micro_batch_size": 3},
    {"micro_batch_size": 1},
    {"micro_batch_size": 8, "tokens_per_micro_batch": 50},
]


def gradient(folder: Path, names: list[str], cut: dict[str, int], update: int, **parts: Any) -> Any:
    controls = chain(*(build_control(name, OPTIONS.get(name, {})) for name in names))
    objective = Objective(
        parts.get("surrogate", surrogate.clipped),
        parts.get("aggregate", aggregate.token_mean),
        controls,
        clip_high=0.28,
    )
    plan = tiny.plan(**cut)
    made = tiny.trainer(folder, objective, plan, dtype=torch.float64)
    batch = tiny.shaped(tiny.rollout(rehearsal="dph" in names), controls)
    flat = tiny.gradient(made, batch, update)
    return flat, {name: value.tolist() for name, value in made._sums.items()}


def check(folder: Path, names: list[str], update: int, **parts: Any) -> None:
    whole, whole_sums = gradient(folder, names, CUTS[0], update, **parts)
    assert whole.abs().max() > 1e-6
    for cut in CUTS[1:]:
        cut_gradient, sums = gradient(folder, names, cut, update, **parts)
        torch.testing.assert_close(cut_gradient, whole, rtol=1e-9, atol=1e-12)
        torch.testing.assert_close(sums, whole_sums, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("names", CHAINS, ids=lambda names: "+".join(names) or "plain GRPO")
@pytest.mark.parametrize("update", [0, 1], ids=["first update", "policy has moved"])
def test_micro_batch_size_never_matters(names: list[str], update: int, tmp_path: Path) -> None:
    check(tmp_path, names, update)


@pytest.mark.parametrize("name", ["sequence_mean", "sequence_sum", "token_mean"])
@pytest.mark.parametrize("loss", ["gspo", "gmpo"])
def test_micro_batch_size_never_matters_for_any_reduction(
    name: str, loss: str, tmp_path: Path
) -> None:
    check(
        tmp_path,
        [],
        0,
        aggregate=getattr(aggregate, name),
        surrogate=getattr(surrogate, loss),
    )


def test_micro_batch_scope_does_depend_on_the_cut(tmp_path: Path) -> None:
    """Otherwise the tests above would show nothing."""
    OPTIONS["steer"] = {"scope": "micro_batch"}
    try:
        whole, _ = gradient(tmp_path, ["steer"], CUTS[0], 0)
        single, _ = gradient(tmp_path, ["steer"], {"micro_batch_size": 1}, 0)
    finally:
        del OPTIONS["steer"]
    assert (whole - single).abs().max() > 1e-6
