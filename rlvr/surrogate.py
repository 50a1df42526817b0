"""Loss terms -> the surrogate loss of every token.

With r = π_θ / π_old, A the advantage, ε the clip distances and sg the stop-gradient. Each function returns
per-token losses (to be minimised); weights, penalties and the reduction come afterwards. The public functions
of this file are the names of `algorithm.surrogate`; keyword arguments are its options.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from rlvr.batch import LossTerms, TokenBatch


def _log_ratio(terms: LossTerms, batch: TokenBatch) -> Float[Tensor, "B T"]:
    """Return log r, clamped to +- `terms.log_ratio_limit`."""
    difference = batch.logprobs - batch.old_logprobs
    return difference.clamp(-terms.log_ratio_limit, terms.log_ratio_limit)


def _clip(ratio: Tensor, terms: LossTerms, scale: Tensor | float = 1.0) -> Tensor:
    low, high = 1 - terms.clip_low, 1 + terms.clip_high
    if isinstance(scale, Tensor):
        return torch.minimum(torch.maximum(ratio, low * scale), high * scale)
    return _clamp(ratio, low, high)


def _clamp(values: Tensor, low: Tensor | float, high: Tensor | float) -> Tensor:
    if not isinstance(low, Tensor) and not isinstance(high, Tensor):
        return values.clamp(low, high)
    # torch has no clamp between a tensor and a number
    low, high = (
        bound if isinstance(bound, Tensor) else values.new_tensor(bound) for bound in (low, high)
    )
    return values.clamp(low, high)


def _pessimistic(ratio: Tensor, clipped_ratio: Tensor, terms: LossTerms) -> Tensor:
    """Return max(-A r, -A clip(r)), and where A < 0 at most -A c."""
    advantages = terms.advantages
    losses = torch.maximum(-advantages * ratio, -advantages * clipped_ratio)
    if terms.dual_clip is None:
        return losses
    bounded = torch.minimum(losses, -advantages * terms.dual_clip)
    return torch.where(advantages < 0, bounded, losses)


def clipped(terms: LossTerms, batch: TokenBatch) -> Float[Tensor, "B T"]:
    """Return max(-A r, -A clip(r, 1 - ε_low, 1 + ε_high)), dual-clipped where A < 0.

    PPO, https://arxiv.org/abs/1707.06347; clip-higher (ε_high > ε_low): DAPO, https://arxiv.org/abs/2503.14476;
    dual clip: https://arxiv.org/abs/1912.09729. verl@b178a3cd `compute_policy_loss_vanilla`.
    """
    ratio = _log_ratio(terms, batch).exp()
    return _pessimistic(ratio, _clip(ratio, terms), terms)


def gppo(terms: LossTerms, batch: TokenBatch) -> Float[Tensor, "B T"]:
    """Return the clipped value with the gradient kept: bounds scale with r / sg(r).

    A clipped token has the gradient (1 ± ε) A ∇log π instead of none; the log-ratio is not clamped, the dual clip
    keeps no gradient. Klear-Reasoner, https://arxiv.org/abs/2508.07629; KlearReasoner@5d2d0b8c `compute_gppo_loss`.
    """
    ratio = (batch.logprobs - batch.old_logprobs).exp()
    return _pessimistic(ratio, _clip(ratio, terms, ratio / ratio.detach()), terms)


def gspo(terms: LossTerms, batch: TokenBatch) -> Float[Tensor, "B T"]:
    """Return the clipped loss of the sequence ratio s = exp(mean_t log r), its gradient spread over tokens.

    Token form r_t = sg(s) π_t / sg(π_t). Meant for `sequence_mean`. GSPO, https://arxiv.org/abs/2507.18071;
    verl@b178a3cd `compute_policy_loss_gspo`; the paper's clip is 3e-4 / 4e-4.
    """
    difference = batch.logprobs - batch.old_logprobs
    lengths = batch.mask.sum(-1, keepdim=True).clamp(min=1)
    log_s = (difference * batch.mask).sum(-1, keepdim=True) / lengths
    log_token_ratio = batch.logprobs - batch.logprobs.detach() + log_s.detach()
    ratio = log_token_ratio.clamp(max=10.0).exp()
    return _pessimistic(ratio, _clip(ratio, terms), terms)


def cispo(terms: LossTerms, batch: TokenBatch) -> Float[Tensor, "B T"]:
    """Return -sg(clip(r, 1 - ε_low, 1 + ε_high)) A log π: every token keeps a gradient.

    MiniMax-M1, https://arxiv.org/abs/2506.13585; verl@b178a3cd `compute_policy_loss_cispo`. TRL's
    `epsilon_high` is the absolute bound: 1 + clip_high here.
    """
    ratio = _log_ratio(terms, batch).exp()
    return -_clip(ratio, terms).detach() * terms.advantages * batch.logprobs


def sapo(
    terms: LossTerms,
    batch: TokenBatch,
    *,
    tau_positive: float = 1.0,
    tau_negative: float = 1.05,
) -> Float[Tensor, "B T"]:
    """Return -A (4/τ) sigmoid(τ (r - 1)): a soft gate in place of the clip.

    Meant for `sequence_mean`. SAPO, https://arxiv.org/abs/2511.20347; verl@b178a3cd `compute_policy_loss_sapo`.

    Args:
        terms: Its clip distances are not used.
        batch: Micro-batch.
        tau_positive: Sharpness where A > 0.
        tau_negative: Sharpness elsewhere.
    """
    ratio = _log_ratio(terms, batch).exp()
    tau = torch.where(terms.advantages > 0, tau_positive, tau_negative).to(ratio.dtype)
    return -terms.advantages * torch.sigmoid(tau * (ratio - 1)) * 4 / tau


def gmpo(terms: LossTerms, batch: TokenBatch) -> Float[Tensor, "B T"]:
    """Return -mean(A) exp(mean_t log r), log r clipped on the side that its advantage pushes to.

    One value a sequence, at each of its tokens; meant for `sequence_mean` with `count_empty`. ε are distances of
    log r from 0 (paper: 0.4); log r is not clamped. GMPO, https://arxiv.org/abs/2507.20673; verl@b178a3cd `compute_policy_loss_geo_mean`.
    """
    difference = batch.logprobs - batch.old_logprobs
    sign = terms.advantages.sign()
    bounded = _clamp(difference, -terms.clip_low, terms.clip_high)
    log_r = sign * torch.minimum(sign * difference, sign * bounded)
    lengths = batch.mask.sum(-1, keepdim=True).clamp(min=1)
    ratio = ((log_r * batch.mask).sum(-1, keepdim=True) / lengths).exp()
    advantage = (terms.advantages * batch.mask).sum(-1, keepdim=True) / lengths
    return (-advantage * ratio).expand_as(difference)


def gpg(terms: LossTerms, batch: TokenBatch) -> Float[Tensor, "B T"]:
    """Return -A log π: the plain policy gradient, no ratio and no clip.

    GPG, https://arxiv.org/abs/2504.02546; verl@b178a3cd `compute_policy_loss_gpg`.
    """
    return -terms.advantages * batch.logprobs
