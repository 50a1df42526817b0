"""Per-token losses -> a scalar, through weights that are decided once for a whole update.

    loss = Σ_{b,t} w_{b,t} loss_{b,t}

Each function maps the tokens of an update (all micro-batches, all processes) to the weights w. A part of
the update uses its rows of w, so however the update is cut the parts add up to the same loss and gradient.
Weights are float64. The public functions of this file are the names of `algorithm.aggregate`; keyword arguments are its options.
"""

from jaxtyping import Bool, Float
from torch import Tensor


def token_mean(
    mask: Bool[Tensor, "B T"],
    rows: Bool[Tensor, " B"],  # noqa: ARG001 (one signature for all)
) -> Float[Tensor, "B T"]:
    """Weigh every token of the update alike: the mean over tokens.

    DAPO, https://arxiv.org/abs/2503.14476; verl `token-mean`, TRL `loss_type="dapo"`.

    Example:
        >>> import torch
        >>> token_mean(torch.tensor([[True, True], [True, False]]), torch.ones(2, dtype=torch.bool))
        tensor([[0.3333, 0.3333],
                [0.3333, 0.0000]], dtype=torch.float64)
    """
    return mask.double() / mask.sum().clamp(min=1)


def sequence_mean(
    mask: Bool[Tensor, "B T"],
    rows: Bool[Tensor, " B"],
    *,
    count_empty: bool = False,
) -> Float[Tensor, "B T"]:
    """Weigh every sequence alike: the mean over sequences of their mean over tokens.

    GRPO, https://arxiv.org/abs/2402.03300; verl `seq-mean-token-mean`, TRL `loss_type="grpo"`.

    Args:
        mask: Tokens of the loss.
        rows: Sequences that belong to the policy loss.
        count_empty: Whether a sequence without a token counts in the mean over sequences (TRL: yes; verl: no).

    Example:
        >>> import torch
        >>> sequence_mean(torch.tensor([[True, True], [True, False]]), torch.ones(2, dtype=torch.bool))
        tensor([[0.2500, 0.2500],
                [0.5000, 0.0000]], dtype=torch.float64)
    """
    lengths = mask.sum(-1, keepdim=True)
    counted = rows if count_empty else rows & (lengths.squeeze(-1) > 0)
    return mask.double() / lengths.clamp(min=1) / counted.sum().clamp(min=1)


def sequence_sum(
    mask: Bool[Tensor, "B T"],
    rows: Bool[Tensor, " B"],
    *,
    length: int | None = None,
    count_empty: bool = True,
) -> Float[Tensor, "B T"]:
    """Weigh every token by a constant: the mean over sequences of their sum over `length`.

    Dr. GRPO, https://arxiv.org/abs/2503.20783; TRL `loss_type="dr_grpo"`.

    Args:
        mask: Tokens of the loss.
        rows: Sequences that belong to the policy loss.
        length: Tokens; None: the width of `mask`. Recipes fill in `rollout.max_completion_length`.
        count_empty: Whether a sequence without a token counts in the mean over sequences.

    Example:
        >>> import torch
        >>> sequence_sum(torch.tensor([[True, True], [True, False]]), torch.ones(2, dtype=torch.bool), length=4)
        tensor([[0.1250, 0.1250],
                [0.1250, 0.0000]], dtype=torch.float64)
    """
    counted = rows if count_empty else rows & mask.any(-1)
    return mask.double() / (counted.sum().clamp(min=1) * (length or mask.shape[1]))


def token_budget(
    mask: Bool[Tensor, "B T"],
    rows: Bool[Tensor, " B"],  # noqa: ARG001 (one signature for all)
    *,
    tokens: int,
) -> Float[Tensor, "B T"]:
    """Weigh every token by one over a fixed budget, however many tokens there are.

    C3PO (Ring-lite), https://arxiv.org/abs/2506.14731: 409600 tokens.

    Example:
        >>> import torch
        >>> token_budget(torch.tensor([[True, False]]), torch.ones(1, dtype=torch.bool), tokens=8)
        tensor([[0.1250, 0.0000]], dtype=torch.float64)
    """
    return mask.double() / tokens
