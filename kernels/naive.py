"""Log-probs and entropies in plain PyTorch: the result that a faster implementation has to agree with."""

import torch
from jaxtyping import Float, Int
from torch import Tensor


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
