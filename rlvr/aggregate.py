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
    cut: bool = True,
) -> Float[Tensor, "B T"]:
    """Weigh the first `tokens` tokens of the update by one over `tokens`, however many there are.

    Sequences are taken in the order of their rows, which is that in which their prompts were sampled (rows at another
    temperature last), whatever the layout; the one that crosses the budget loses its end. Advantages are computed
    before, so those of a group that is cut need not add up to 0. With fewer tokens the weight is the same.
    C3PO (Ring-lite), https://arxiv.org/abs/2506.14731: 409600 tokens, the order is not said; the report of
    inclusionAI/Ring@3b256cce, equations 2 and 3 (there is no training code).

    Args:
        mask: Tokens of the loss.
        rows: Not used.
        tokens: The budget of an update, 1 or more.
        cut: Whether tokens beyond it weigh 0; false: as much as the others (verl `seq-mean-token-sum-norm` is the
            sum over a constant, too).

    Raises:
        ValueError: If there is no budget.

    Example:
        >>> import torch
        >>> mask = torch.tensor([[True, True], [True, True]])
        >>> token_budget(mask, torch.ones(2, dtype=torch.bool), tokens=3)
        tensor([[0.3333, 0.3333],
                [0.3333, 0.0000]], dtype=torch.float64)
    """
    if tokens < 1:
        raise ValueError(f"tokens is {tokens}; a budget is 1 or more")
    kept = mask
    if cut:
        kept = mask & (mask.flatten().cumsum(0).view_as(mask) <= tokens)
    return kept.double() / tokens
