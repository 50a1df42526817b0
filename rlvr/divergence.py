"""Per-token estimates of a KL divergence from the log-probs of sampled tokens, in nats.

http://joschu.net/blog/kl-approx.html. Tokens are sampled from the policy of `logprobs`; the estimate is of
KL(π || π_other). The public functions of this file are the names of `algorithm.kl_estimator`.
"""

import torch
from jaxtyping import Float
from torch import Tensor


def k1(
    logprobs: Float[Tensor, "B T"], other_logprobs: Float[Tensor, "B T"]
) -> Float[Tensor, "B T"]:
    """Return log π - log π_other: unbiased, high variance; its own gradient is zero on average."""
    return logprobs - other_logprobs


def k2(
    logprobs: Float[Tensor, "B T"], other_logprobs: Float[Tensor, "B T"]
) -> Float[Tensor, "B T"]:
    """Return (log π - log π_other)² / 2: biased value, but on policy the gradient of the KL."""
    return 0.5 * (logprobs - other_logprobs) ** 2


def k3(
    logprobs: Float[Tensor, "B T"], other_logprobs: Float[Tensor, "B T"]
) -> Float[Tensor, "B T"]:
    """Return u - log u - 1 with u = π_other / π: unbiased, never negative (GRPO's and TRL's).

    Example:
        >>> k3(torch.tensor([[-1.0]]), torch.tensor([[-1.0]]))
        tensor([[0.]])
    """
    log_u = other_logprobs - logprobs
    return torch.exp(log_u) - log_u - 1
