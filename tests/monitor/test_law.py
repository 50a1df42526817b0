"""The law between entropy and accuracy."""

import math

import pytest
import torch

from rlvr.monitor import law


def test_a_run_on_the_law_is_fitted_exactly():
    entropies = [1.2, 0.9, 0.7, 0.3]
    found = law.fit(entropies, [0.8 - 0.25 * math.exp(h) for h in entropies])
    assert (found.a, found.b) == pytest.approx((0.25, 0.8))
    assert found.ceiling == pytest.approx(0.55)
    assert found.predict(0.0) == found.ceiling


def test_noise_is_fitted_by_least_squares():
    generator = torch.Generator().manual_seed(0)
    entropies = torch.rand(30, generator=generator, dtype=torch.float64)
    accuracies = torch.rand(30, generator=generator, dtype=torch.float64)
    design = torch.stack([-entropies.exp(), torch.ones_like(entropies)], -1)
    expected = torch.linalg.lstsq(design, accuracies.unsqueeze(-1)).solution.squeeze(-1)
    found = law.fit(entropies.tolist(), accuracies.tolist())
    assert (found.a, found.b) == pytest.approx(tuple(expected.tolist()))


def test_checkpoints_without_a_measurement_are_left_out():
    nan = math.nan
    assert law.fit([1.0, 0.5, nan, 0.1], [0.1, 0.2, 0.3, nan]) == law.fit([1.0, 0.5], [0.1, 0.2])


@pytest.mark.parametrize("entropies", [[], [0.5], [0.5, 0.5]])
def test_without_two_entropies_there_is_no_law(entropies):
    with pytest.raises(ValueError, match="two checkpoints of different entropy"):
        law.fit(entropies, [0.1] * len(entropies))
