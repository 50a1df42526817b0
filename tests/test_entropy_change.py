"""The first-order entropy change against the definition, and against exact steps."""

import math

import pytest
import torch
from torch.nn.functional import one_hot

from rlvr.entropy_change import discriminator, expected_discriminator, first_order_change
from rlvr.kernels.naive import logprob_entropy
from rlvr.kernels.statistics import of_logits

HALF = torch.tensor([0.5, 0.25, 0.25], dtype=torch.float64)


def parts(logits: torch.Tensor, taken: torch.Tensor) -> tuple[torch.Tensor, ...]:
    logprobs, entropies = logprob_entropy(logits, taken)
    sums = of_logits(logits, taken, ["sum_p2", "sum_p2_logp"])
    return (
        discriminator(logprobs, entropies),
        expected_discriminator(entropies, sums["sum_p2"], sums["sum_p2_logp"]),
        entropies,
    )


def test_a_worked_example():
    # H = 1.5 ln 2. S: 1/2 (-1 + 1.5) ln 2 and 1/4 (-2 + 1.5) ln 2
    logits = HALF.log().expand(3, 3)
    sampled, expected, _ = parts(logits, torch.arange(3))
    ln2 = math.log(2)
    assert sampled.tolist() == pytest.approx([ln2 / 4, -ln2 / 8, -ln2 / 8])
    # N = E[S] = 1/2 1/4 - 1/4 1/8 - 1/4 1/8 = 1/16
    assert expected.tolist() == pytest.approx([ln2 / 16] * 3)
    change = first_order_change(torch.ones(3, dtype=torch.float64), sampled, expected, 0.1)
    # up with the common token: -0.1 (1/4 - 1/16) ln 2; up with a rare one: +0.1 (1/8 + 1/16) ln 2
    assert change.tolist() == pytest.approx([-0.01875 * ln2, 0.01875 * ln2, 0.01875 * ln2])


def test_the_expected_discriminator_is_the_mean_over_the_policys_own_tokens():
    logits = 2 * torch.randn(9, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    each = torch.stack([parts(logits, torch.full((9,), token))[0] for token in range(6)], -1)
    expected = parts(logits, torch.zeros(9, dtype=torch.long))[1]
    torch.testing.assert_close((logits.softmax(-1) * each).sum(-1), expected)


def test_the_error_falls_with_the_square_of_the_step():
    generator = torch.Generator().manual_seed(1)
    logits = 2 * torch.randn(50, 6, dtype=torch.float64, generator=generator)
    taken = torch.randint(0, 6, (50,), generator=generator)
    gains = torch.randn(50, dtype=torch.float64, generator=generator)
    sampled, expected, before = parts(logits, taken)

    def error(step: float) -> float:
        moved = logits + step * gains[:, None] * (one_hot(taken, 6) - logits.softmax(-1))
        exact = logprob_entropy(moved, taken)[1] - before
        return float((first_order_change(gains, sampled, expected, step) - exact).abs().max())

    assert error(1e-3) / error(1e-4) == pytest.approx(100, rel=0.05)


def test_a_certain_token_changes_nothing():
    sampled, expected, _ = parts(torch.tensor([[800.0, 0.0]]), torch.tensor([0]))
    assert sampled.item() == expected.item() == 0.0
