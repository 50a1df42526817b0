"""What every entropy control promises; the methods are found by listing the folder."""

import importlib
import json
from dataclasses import replace
from types import ModuleType

import pytest
import torch
from torch import Tensor

from rlvr.batch import TokenBatch
from rlvr.entropy.control import Chain, build_control, chain, control_names
from rlvr.loss import Objective
from tests.entropy import settings, toy

NAMES = control_names()
ROWS, WIDTH = 8, 7


def module(name: str) -> ModuleType:
    return importlib.import_module(f"rlvr.entropy.{name}")


def controlled(name: str) -> Objective:
    """Return the objective with the control, its thresholds within reach of a toy."""
    return toy.objective(chain(settings.built(name)))


def update() -> tuple[TokenBatch, Tensor, Tensor]:
    return toy.facts(ROWS, WIDTH), toy.logits(ROWS, WIDTH), toy.actions(ROWS, WIDTH)


def test_the_folder_has_methods() -> None:
    assert {"clip_cov", "kl_cov", "steer", "aepo", "dph"} <= set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_off_is_plain_grpo(name: str) -> None:
    off = toy.objective(chain(module(name).build(module(name).OFF)))
    loss, gradient, _, _ = toy.loss_and_gradient(off, *update())
    plain, plain_gradient, _, _ = toy.loss_and_gradient(toy.objective(), *update())
    assert loss == plain
    assert (gradient == plain_gradient).all()
    control = module(name).build(module(name).OFF)
    assert control.name == name
    assert control.idle, "a recipe with it would silently do nothing"
    assert settings.built(name).idle is None


@pytest.mark.parametrize("name", NAMES)
def test_defaults_change_something(name: str) -> None:
    control = build_control(name, {})
    acts_before_updates = control.shape is not None or control.reward is not None
    if control.measure is None and acts_before_updates:
        return
    _, gradient, _, _ = toy.loss_and_gradient(controlled(name), *update())
    _, plain, _, _ = toy.loss_and_gradient(toy.objective(), *update())
    assert (gradient - plain).abs().max() > 1e-6


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("filling", [float("nan"), 1e6], ids=["nan", "huge"])
def test_padding_never_matters(name: str, filling: float) -> None:
    batch, table, taken = update()
    padding = ~(batch.mask | batch.rehearsal_mask)
    dirty = batch.map(
        lambda _, value: value.masked_fill(padding, filling) if value.is_floating_point() else value
    )
    table_dirty = table.masked_fill(padding.unsqueeze(-1), filling)
    objective = controlled(name)
    loss, gradient, _, _ = toy.loss_and_gradient(objective, dirty, table_dirty, taken)
    clean, clean_gradient, _, _ = toy.loss_and_gradient(objective, batch, table, taken)
    assert loss == clean
    assert (gradient[~padding] == clean_gradient[~padding]).all()


@pytest.mark.parametrize("name", NAMES)
def test_more_padding_never_matters(name: str) -> None:
    batch, table, taken = update()
    wide = batch.map(
        lambda _, value: torch.nn.functional.pad(value, (0, 3)) if value.dim() == 2 else value
    )
    objective = controlled(name)
    loss, gradient, _, _ = toy.loss_and_gradient(
        objective,
        wide,
        torch.nn.functional.pad(table, (0, 0, 0, 3)),
        torch.nn.functional.pad(taken, (0, 3)),
    )
    narrow, narrow_gradient, _, _ = toy.loss_and_gradient(objective, batch, table, taken)
    torch.testing.assert_close(loss, narrow, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(gradient[:, :WIDTH], narrow_gradient, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", NAMES)
def test_order_of_sequences_never_matters(name: str) -> None:
    batch, table, taken = update()
    order = torch.randperm(ROWS, generator=torch.Generator().manual_seed(5))
    objective = controlled(name)
    loss, gradient, _, _ = toy.loss_and_gradient(
        objective, batch.rows(order), table[order], taken[order]
    )
    first, first_gradient, _, _ = toy.loss_and_gradient(objective, batch, table, taken)
    torch.testing.assert_close(loss, first, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(gradient, first_gradient[order], rtol=1e-12, atol=1e-12)


CUTS = {
    "8x1": [[i] for i in range(8)],
    "2x4": [[0, 1, 2, 3], [4, 5, 6, 7]],
    "uneven, out of order": [[7, 0, 3], [5], [1, 2, 6, 4]],
}


@pytest.mark.parametrize("name", [*NAMES, "plain GRPO"])
@pytest.mark.parametrize("cut", CUTS)
def test_layout_never_matters(name: str, cut: str) -> None:
    objective = toy.objective() if name == "plain GRPO" else controlled(name)
    parts = [torch.tensor(rows) for rows in CUTS[cut]]
    loss, gradient, _, sums = toy.loss_and_gradient(objective, *update(), parts)
    whole, whole_gradient, _, whole_sums = toy.loss_and_gradient(objective, *update())
    torch.testing.assert_close(loss, whole, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(gradient, whole_gradient, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(sums, whole_sums, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", NAMES)
def test_gradient_is_that_of_the_loss(name: str) -> None:
    batch, table, taken = update()
    objective = controlled(name)
    everything = [torch.arange(ROWS)]
    decision = objective.decide(
        toy.seen(batch, table, taken), everything, objective.chain.init(), seed=0
    )

    fixed = toy.seen(batch, table, taken).entropies

    def loss(free: Tensor) -> Tensor:
        now = toy.seen(batch, free, taken)
        # as the trainer gives them: constants to a control that does not need their gradient
        if "entropies" not in objective.chain.needs:
            now = replace(now, entropies=fixed)
        return objective.loss(now, decision)[0]

    # along random directions: one by one, 280 logits take seconds
    assert torch.autograd.gradcheck(loss, table.clone().requires_grad_(), fast_mode=True)


@pytest.mark.parametrize("name", NAMES)
def test_inputs_are_not_changed(name: str) -> None:
    batch, table, taken = update()
    before = batch.map(lambda _, value: value.clone())
    toy.loss_and_gradient(controlled(name), batch, table, taken)
    for (key, value), (_, expected) in zip(batch.tensors(), before.tensors(), strict=True):
        torch.testing.assert_close(value, expected, rtol=0, atol=0, msg=key)


DEGENERATE = {
    "zero advantages": lambda b: replace(b, advantages=torch.zeros_like(b.advantages)),
    "equal advantages": lambda b: replace(b, advantages=torch.ones_like(b.advantages)),
    "equal entropies": lambda b: replace(b, old_entropies=torch.ones_like(b.advantages)),
    "one token": lambda b: replace(
        b, mask=torch.arange(b.mask.numel()).view(b.mask.shape) == 0, rehearsal_mask=b.mask & False
    ),
    "no token": lambda b: replace(b, mask=b.mask & False, rehearsal_mask=b.mask & False),
    "no rehearsal": lambda b: replace(b, rehearsal_mask=b.mask & False, initial_logprobs=None),
    "ratio far off": lambda b: replace(b, old_logprobs=b.old_logprobs - 30),
}


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("case", DEGENERATE)
def test_degenerate_updates_are_finite(name: str, case: str) -> None:
    batch, table, taken = update()
    loss, gradient, _, _ = toy.loss_and_gradient(
        controlled(name), DEGENERATE[case](batch), table, taken
    )
    assert torch.isfinite(loss)
    assert torch.isfinite(gradient).all()


@pytest.mark.parametrize("name", NAMES)
def test_an_empty_update_is_a_loss_of_zero(name: str) -> None:
    batch, table, taken = update()
    none = torch.zeros(0, dtype=torch.long)
    loss, _, _, _ = toy.loss_and_gradient(
        controlled(name), batch.rows(none), table[none], taken[none], [none]
    )
    assert loss == 0


@pytest.mark.parametrize("name", NAMES)
def test_state_is_plain_data_and_survives_a_restart(name: str) -> None:
    composed = chain(build_control(name, {}))
    stats = {"entropy": 0.41, "surprisal": 0.43}
    once = composed.step(composed.init(), stats)
    restored = json.loads(json.dumps(once))
    assert restored == once
    assert composed.step(restored, stats) == composed.step(once, stats)
    assert composed.plan(restored) == composed.plan(once)


@pytest.mark.parametrize("name", NAMES)
def test_every_option_says_what_it_means(name: str) -> None:
    for field, info in module(name).Config.model_fields.items():
        assert info.description, f"{name}.{field} has no docstring"


@pytest.mark.parametrize("name", NAMES)
def test_the_docstring_says_scope_and_source(name: str) -> None:
    text = module(name).__doc__ or ""
    assert "Scope: " in text
    assert "https://arxiv.org/abs/" in text or "of our own" in text


def test_a_control_listed_twice_is_refused() -> None:
    control = build_control("steer", {})
    with pytest.raises(ValueError, match="'steer' is listed twice"):
        chain(control, control)


def test_two_controls_that_replace_the_clip_are_refused() -> None:
    with pytest.raises(ValueError, match="both replace the clip"):
        chain(build_control("clip_cov", {}), build_control("kl_cov", {}))


def test_chains_act_in_order_and_add_up() -> None:
    both = chain(build_control("steer", {}), build_control("dph", {"coef": 0.5}))
    _, gradient, _, stats = toy.loss_and_gradient(toy.objective(both), *update())
    alone = [
        toy.loss_and_gradient(toy.objective(chain(control)), *update())[1]
        for control in both.controls
    ]
    _, plain, _, _ = toy.loss_and_gradient(toy.objective(), *update())
    torch.testing.assert_close(gradient, alone[0] + alone[1] - plain)
    assert {"steer/weight", "dph/divergence"} <= stats.keys()


def test_the_empty_chain_asks_for_nothing() -> None:
    empty = Chain()
    assert not empty.needs
    assert empty.plan(empty.init()).tempered is None
    assert empty.plan(empty.init()).rehearsal is None
