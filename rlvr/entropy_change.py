"""How a policy-gradient step on a token changes the entropy there, to first order.

    dz = η A r (onehot(a) - p)      one ascent step on A r, with the position's own logits z as the parameters
    dH = -η A r (S - N) + O(η²)
    S  = π (ln π + H)               of the sampled token a; π = p_a
    N  = Σ_v p_v² (ln p_v + H)      the mean of S over tokens drawn from p

Pushing up a token with S > N (a common one) lowers the entropy, pushing up one with S < N raises it; pushing down does
the opposite. Since E[S] = N, advantages that do not depend on the token change nothing on average. Real networks share
parameters between positions and step by Adam: then this is a proxy.

Paper: On the Entropy Dynamics in Reinforcement Fine-Tuning of Large Language Models https://arxiv.org/abs/2602.03392
"""

from jaxtyping import Float
from torch import Tensor


def discriminator(
    logprobs: Float[Tensor, "*tokens"], entropies: Float[Tensor, "*tokens"]
) -> Float[Tensor, "*tokens"]:
    """Return S, nats.

    Args:
        logprobs: ln π of the sampled tokens, nats.
        entropies: H of the distributions they were drawn from, nats.

    Example:
        >>> import math, torch
        >>> discriminator(torch.tensor([math.log(0.5)]), torch.tensor([1.0]))  # 0.5 (-0.693 + 1)
        tensor([0.1534])
    """
    return logprobs.exp() * (logprobs + entropies)


def expected_discriminator(
    entropies: Float[Tensor, "*tokens"],
    sum_p2: Float[Tensor, "*tokens"],
    sum_p2_logp: Float[Tensor, "*tokens"],
) -> Float[Tensor, "*tokens"]:
    """Return N = H Σ p² + Σ p² ln p, nats.

    Args:
        entropies: H, nats.
        sum_p2: Statistic `sum_p2` of `rlvr.kernels.statistics`, without unit.
        sum_p2_logp: Statistic `sum_p2_logp`, nats.
    """
    return entropies * sum_p2 + sum_p2_logp


def first_order_change(
    gains: Float[Tensor, "*tokens"],
    discriminators: Float[Tensor, "*tokens"],
    expected: Float[Tensor, "*tokens"] | float,
    step_size: float,
) -> Float[Tensor, "*tokens"]:
    """Return -η A r (S - N), nats: what a step on each token's own logits changes of the entropy there.

    Args:
        gains: A r, advantage times ratio.
        discriminators: S, nats.
        expected: N, nats.
        step_size: η, of a step on the logits.
    """
    return -step_size * gains * (discriminators - expected)
