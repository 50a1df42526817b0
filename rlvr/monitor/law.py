"""The law between entropy and accuracy: R = -a exp(H) + b, fitted to a run.

R is an accuracy, 0..1, H the policy's mean entropy, nats, at the same checkpoint. Spent entropy buys accuracy at a rate
a that the law takes as constant, so b - a is what is reached when none is left. The paper fits the first 15 % of a run
and predicts the rest to about 1 %; it has no code, this is ordinary least squares on exp(H).

Paper: The Entropy Mechanism of Reinforcement Learning for Reasoning Language Models https://arxiv.org/abs/2505.22617
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Law:
    """A fit."""

    a: float
    """Accuracy per exp(nat) of entropy spent."""
    b: float

    @property
    def ceiling(self) -> float:
        """Accuracy at entropy 0."""
        return self.b - self.a

    def predict(self, entropy: float) -> float:
        """Return the accuracy at this entropy, nats."""
        return self.b - self.a * math.exp(entropy)


def fit(entropies: Sequence[float], accuracies: Sequence[float]) -> Law:
    """Return the law that fits best, by least squares over the checkpoints at which both were measured.

    Args:
        entropies: H of each checkpoint, nats; NaN: not measured.
        accuracies: R of the same checkpoints, 0..1; NaN: not measured.

    Raises:
        ValueError: If there are not two checkpoints of different entropy.

    Example:
        >>> law = fit([math.log(2), 0.0], [0.1, 0.4])  # R = -0.3 exp(H) + 0.7
        >>> round(law.a, 6), round(law.b, 6), round(law.ceiling, 6)
        (0.3, 0.7, 0.4)
    """
    pairs = [
        (math.exp(entropy), accuracy)
        for entropy, accuracy in zip(entropies, accuracies, strict=True)
        if math.isfinite(entropy) and math.isfinite(accuracy)
    ]
    if len({x for x, _ in pairs}) < 2:
        raise ValueError(
            f"the law needs two checkpoints of different entropy; {len(pairs)} measured"
        )
    mean_x = math.fsum(x for x, _ in pairs) / len(pairs)
    mean_y = math.fsum(y for _, y in pairs) / len(pairs)
    spread = math.fsum((x - mean_x) ** 2 for x, _ in pairs)
    a = -math.fsum((x - mean_x) * (y - mean_y) for x, y in pairs) / spread
    return Law(a, mean_y + a * mean_x)
