"""What every control promises that changes rewards or rows of a whole generation."""

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from rlvr.batch import RolloutBatch
from rlvr.entropy.control import build_control, chain, control_names
from tests.entropy import settings, toy

NAMES = [
    name
    for name in control_names()
    if (control := settings.built(name)).reward is not None or control.shape is not None
]


def made(name: str) -> tuple[RolloutBatch, Any]:
    """Return a generation and the chain, its state that of a run that has begun."""
    composed = chain(build_control(name, settings.REACHES.get(name, {})))
    plan = composed.plan(composed.init())
    return toy.generation(tempered=4 if plan.tempered else 0), composed


def shaped(rollout: RolloutBatch, composed: Any) -> tuple[RolloutBatch, Any, dict[str, Tensor]]:
    """Return what two generations in a row make of the second, the state after it, and its statistics."""
    state = composed.init()
    for _ in range(2):
        before = rollout
        rewarded, state, stats = composed.reward(before, state)
        done, state, more = composed.shape(rewarded, state)
    return done, state, stats | more


def same(one: RolloutBatch, other: RolloutBatch) -> None:
    for (name, value), (_, expected) in zip(one.tensors(), other.tensors(), strict=True):
        torch.testing.assert_close(
            value,
            expected,
            rtol=1e-12,
            atol=1e-12,
            equal_nan=True,
            msg=lambda t, n=name: f"{n}: {t}",
        )


def at_tokens(rollout: RolloutBatch) -> RolloutBatch:
    """Return the rollout with 0 at padding."""
    padding = ~rollout.completion_mask
    return rollout.map(
        lambda name, value: (
            value.masked_fill(padding, 0)
            if value.dim() == 2 and not name.startswith("prompt")
            else value
        )
    )


@pytest.mark.parametrize("name", NAMES)
def test_padding_never_matters(name: str) -> None:
    rollout, composed = made(name)
    padding = ~rollout.completion_mask
    dirty = rollout.map(
        lambda field, value: (
            value.masked_fill(padding, torch.nan)
            if value.dim() == 2 and value.is_floating_point() and field != "advantages"
            else value
        )
    )
    clean, state, stats = shaped(rollout, composed)
    other, other_state, other_stats = shaped(dirty, composed)
    same(at_tokens(other), at_tokens(clean))
    assert other_state == state
    torch.testing.assert_close(other_stats, stats, equal_nan=True)


@pytest.mark.parametrize("name", NAMES)
def test_order_of_groups_and_sequences_never_matters(name: str) -> None:
    rollout, composed = made(name)
    clean, state, stats = shaped(rollout, composed)
    if len(clean) != len(rollout) or (clean.prompt_ids != rollout.prompt_ids).any():
        pytest.skip("picks rows by their place in the generation, which no layout changes")
    order = torch.randperm(len(rollout), generator=torch.Generator().manual_seed(1))
    other, other_state, other_stats = shaped(rollout.rows(order), composed)
    same(other, clean.rows(order))
    flat, other_flat = (torch.tensor(numbers(item)).double() for item in (state, other_state))
    torch.testing.assert_close(other_flat, flat, rtol=1e-12, atol=1e-12, equal_nan=True)
    torch.testing.assert_close(other_stats, stats, rtol=1e-12, atol=1e-12, equal_nan=True)


def numbers(state: Any) -> list[float]:
    if isinstance(state, dict):
        return [item for value in state.values() for item in numbers(value)]
    if isinstance(state, list | tuple):
        return [item for value in state for item in numbers(value)]
    return [float(state)] if isinstance(state, int | float) else []


@pytest.mark.parametrize("name", NAMES)
def test_inputs_are_not_changed(name: str) -> None:
    rollout, composed = made(name)
    before = rollout.map(lambda _, value: value.clone())
    state = composed.init()
    kept = json.dumps(state)
    rewarded, _, _ = composed.reward(rollout, state)
    composed.shape(rewarded, state)
    same(rollout, before)
    assert json.dumps(state) == kept


DEGENERATE: dict[str, Callable[[RolloutBatch], RolloutBatch]] = {
    "no reward counts": lambda r: replace(r, rewards=torch.full_like(r.rewards, torch.nan)),
    "all wrong": lambda r: replace(
        r, rewards=torch.zeros_like(r.rewards), advantages=torch.zeros_like(r.advantages)
    ),
    "all right": lambda r: replace(
        r, rewards=torch.ones_like(r.rewards), advantages=torch.zeros_like(r.advantages)
    ),
    "no token": lambda r: replace(
        r, mask=torch.zeros_like(r.mask), completion_mask=torch.zeros_like(r.mask)
    ),
    "one row": lambda r: r.rows(torch.tensor([0])),
    "no row": lambda r: r.rows(torch.zeros(0, dtype=torch.long)),
    "certain": lambda r: replace(
        r,
        old_logprobs=torch.zeros_like(r.advantages),
        old_entropies=torch.zeros_like(r.advantages),
    ),
}


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("case", DEGENERATE)
def test_degenerate_generations_are_finite(name: str, case: str) -> None:
    rollout, composed = made(name)
    given = DEGENERATE[case](rollout)
    done, state, _ = shaped(given, composed)
    assert done.advantages[done.mask].isfinite().all()
    assert (done.mask <= done.completion_mask).all()
    assert torch.equal(done.rewards.isnan(), given.rewards.isnan()) or len(done) != len(given)
    assert json.loads(json.dumps(state, allow_nan=False)) == state


@pytest.mark.parametrize("name", NAMES)
def test_off_leaves_a_generation_as_it_is(name: str) -> None:
    import importlib

    module = importlib.import_module(f"rlvr.entropy.{name}")
    rollout = toy.generation()
    done, _, _ = shaped(rollout, chain(module.build(module.OFF)))
    padded = {"old_statistics"}
    for (field, value), (_, expected) in zip(done.tensors(), rollout.tensors(), strict=True):
        if field not in padded:
            torch.testing.assert_close(value, expected, rtol=0, atol=0, equal_nan=True, msg=field)


@pytest.mark.parametrize("name", NAMES)
def test_defaults_change_something(name: str) -> None:
    rollout, composed = made(name)
    done, state, _ = shaped(rollout, composed)
    changed = len(done) != len(rollout) or any(
        not torch.equal(getattr(done, field), getattr(rollout, field))
        for field in ("advantages", "mask")
    )
    rewards = done.rewards.nan_to_num()
    changed = changed or not torch.equal(rewards, rollout.rewards.nan_to_num())
    assert changed or state != composed.init()
