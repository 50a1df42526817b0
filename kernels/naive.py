"""Log-probs and entropies in plain PyTorch: the result that a faster implementation has to agree with."""

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from rlvr.kernels.projection import IGNORED, LOWEST, compute_dtype, without_autocast
from rlvr.kernels.statistics import of_logits


def logprob_entropy(
    logits: Float[Tensor, "*batch V"], targets: Int[Tensor, "*batch"], *, temperature: float = 1.0
) -> tuple[Float[Tensor, "*batch"], Float[Tensor, "*batch"]]:
    """Return log p(target) and -Σ p ln p of softmax(logits / temperature), in nats, with gradient.

    Computed in the dtype of the logits; every logit is held in memory.

    Example:
        >>> logprob_entropy(torch.zeros(1, 4), torch.tensor([2]))
        (tensor([-1.3863]), tensor([1.3863]))
    """
    log_p = torch.log_softmax(logits / temperature, dim=-1)
    logprobs = log_p.gather(-1, targets.unsqueeze(-1)).squeeze(-1)
    return logprobs, -(log_p.exp() * log_p).sum(-1)


def linear_logits(
    hidden: Float[Tensor, "N H"],
    weight: Float[Tensor, "V H"],
    *,
    bias: Float[Tensor, " V"] | None = None,
    low_hidden: Float[Tensor, "N R"] | None = None,
    low_weight: Float[Tensor, "V R"] | None = None,
    temperature: float | Float[Tensor, " N"] = 1.0,
    softcap: float | None = None,
    logit_scale: float = 1.0,
) -> Float[Tensor, "N V"]:
    """Return cap tanh(scale (x Wᵀ + u Bᵀ + b) / cap) / T in float32, or in float64 for float64 hidden states.

    No logit is less than `LOWEST`.
    """
    dtype = compute_dtype(hidden.dtype)
    with without_autocast(hidden):
        z = hidden.to(dtype) @ weight.to(dtype).T
        if low_hidden is not None and low_weight is not None:
            z = z + low_hidden.to(dtype) @ low_weight.to(dtype).T
    if bias is not None:
        z = z + bias.to(dtype)
    if logit_scale != 1:
        z = z * logit_scale
    if softcap is not None:
        z = softcap * torch.tanh(z / softcap)
    if isinstance(temperature, Tensor):
        z = z / temperature.unsqueeze(-1)
    elif temperature != 1:
        z = z / temperature
    return z if bias is None else z.clamp(min=LOWEST)


def linear_logprob_entropy(
    hidden: Float[Tensor, "N H"],
    weight: Float[Tensor, "V H"],
    targets: Int[Tensor, " N"],
    *,
    bias: Float[Tensor, " V"] | None = None,
    low_hidden: Float[Tensor, "N R"] | None = None,
    low_weight: Float[Tensor, "V R"] | None = None,
    temperature: float | Float[Tensor, " N"] = 1.0,
    softcap: float | None = None,
    logit_scale: float = 1.0,
    statistics: Sequence[str] = (),
) -> tuple[Float[Tensor, " N"], Float[Tensor, " N"], dict[str, Float[Tensor, " N"]]]:
    """Return log-probs, entropies and statistics as `rlvr.kernels.linear.linear_logprob_entropy` does, in plain PyTorch.

    Every logit is held in memory, several times. Rows whose target is `IGNORED` get 0, whatever their hidden states are.
    """
    ignored = targets == IGNORED
    left_out = ignored.unsqueeze(1)
    logits = linear_logits(
        hidden.masked_fill(left_out, 0.0),
        weight,
        bias=bias,
        low_hidden=None if low_hidden is None else low_hidden.masked_fill(left_out, 0.0),
        low_weight=low_weight,
        temperature=temperature,
        softcap=softcap,
        logit_scale=logit_scale,
    )
    taken = targets.masked_fill(ignored, 0)
    found = of_logits(logits, taken, statistics)
    values = (*logprob_entropy(logits, taken), *found.values())
    logprobs, entropies, *rest = (value.masked_fill(ignored, 0.0) for value in values)
    return logprobs, entropies, dict(zip(found, rest, strict=True))
