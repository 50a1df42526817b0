"""Statistics of next-token distributions beyond log-prob and entropy.

A statistic has a name with its parameters, `kind` or `kind:parameter`; p is the softmax at the recipe's temperature:

    sum_p2                  Σ p²
    sum_p2_logp             Σ p² ln p
    top_p_entropy:M[:K]     entropy of the renormalised head of the distribution: the most likely tokens before the one
                            with which their mass reaches M (that one is left out, as in SIREN's code; with a token of
                            p >= M nothing is left and the entropy is 0); of the K most likely tokens at most. Carries
                            gradient.
    nucleus_entropy:M[:K]   the same of the smallest set with mass >= M (nucleus sampling), or the K most likely tokens
                            if they have less. Carries gradient.
    top_k_entropy:K         -Σ p ln p over the K most likely tokens, not renormalised
    top_k_mass:K            Σ p over them
    min_p_logprob:R         log-prob of the sampled token after tokens of p < R max p are taken out and the others
                            renormalised; FILTERED for a token that is taken out
    tempered_logprob:T      log-prob of the sampled token at temperature T

Only what is asked for is computed.

Legend: N rows (tokens), V vocabulary.
"""

import math
from collections.abc import Callable, Iterable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from rlvr.kernels.projection import LOWEST
from rlvr.suggest import unknown_name

FILTERED = -1e4
"""Log-prob of a token that min-p takes out."""
_TINY = 1e-12


def top_p_entropy(log_p: Float[Tensor, "N V"], mass: float, most: int = 0) -> Float[Tensor, " N"]:
    """Return the entropy, nats, of the tokens ranked before the one that reaches the mass, renormalised."""
    p = _ranked(log_p, most).exp()
    with torch.no_grad():
        inside = p.cumsum(-1) < mass
    kept = torch.where(inside, p, 0.0)
    # the authors' 1e-12: in float64 a set of one token has an entropy of that order, and they rank by it
    share = kept / (kept.sum(-1, keepdim=True) + _TINY)
    return -(share * (share + _TINY).log()).sum(-1)


def nucleus_entropy(log_p: Float[Tensor, "N V"], mass: float, most: int = 0) -> Float[Tensor, " N"]:
    """Return the entropy, nats, of the smallest set with at least this mass, renormalised."""
    ranked = _ranked(log_p, most)
    p = ranked.exp()
    with torch.no_grad():
        # the mass before a token, its own left out: the first token is always in
        inside = p.cumsum(-1) - p < mass
    # where before the product: the gradient of 0 x ln 0 is not a number
    kept = torch.where(inside, p, 0.0)
    total = kept.sum(-1)
    # H = ln Z - Σ p ln p / Z, with Z the mass of the set
    inner = (kept * torch.where(inside, ranked, 0.0)).sum(-1)
    # rounding may leave less than nothing of a set of one
    return (total.log() - inner / total).clamp(min=0.0)


def top_p_entropy_gradient(
    log_p: Float[Tensor, "N V"], mass: float, most: int = 0
) -> Float[Tensor, "N V"]:
    """Return the gradient of `top_p_entropy` by the logits, its set of tokens held fixed."""
    ranked, tokens = log_p.topk(min(most or log_p.shape[-1], log_p.shape[-1]), dim=-1)
    p = ranked.exp()
    kept = torch.where(p.cumsum(-1) < mass, p, 0.0)
    total = kept.sum(-1, keepdim=True) + _TINY
    share = kept / total
    slope = -((share + _TINY).log() + share / (share + _TINY))
    by_kept = kept * (slope - (slope * share).sum(-1, keepdim=True)) / total
    # of softmax: dp_u / dz_v = p_u (1[u = v] - p_v)
    return -log_p.exp() * by_kept.sum(-1, keepdim=True) + torch.zeros_like(log_p).scatter_(
        -1, tokens, by_kept
    )


def nucleus_entropy_gradient(
    log_p: Float[Tensor, "N V"], mass: float, most: int = 0
) -> Float[Tensor, "N V"]:
    """Return the gradient of `nucleus_entropy` by the logits, its set of tokens held fixed.

    Renormalised on a set, p is q: the softmax of the logits in the set, of which dH / dz = -q (ln q + H).
    """
    ranked, tokens = log_p.topk(min(most or log_p.shape[-1], log_p.shape[-1]), dim=-1)
    p = ranked.exp()
    inside = p.cumsum(-1) - p < mass
    total = torch.where(inside, p, 0.0).sum(-1, keepdim=True)
    log_q = ranked - total.log()
    q = torch.where(inside, log_q.exp(), 0.0)
    entropy = -(q * torch.where(inside, log_q, 0.0)).sum(-1, keepdim=True)
    by_logit = torch.where(inside, -q * (log_q + entropy), 0.0)
    return torch.zeros_like(log_p).scatter_(-1, tokens, by_logit)


def _ranked(log_p: Tensor, most: int) -> Tensor:
    size = log_p.shape[-1]
    return log_p.topk(min(most or size, size), dim=-1).values


def min_p_logprob(
    log_p: Float[Tensor, "N V"], logprobs: Float[Tensor, " N"], fraction: float
) -> Float[Tensor, " N"]:
    """Return the log-prob of the sampled token after min-p filtering; FILTERED where it is taken out."""
    # as the authors: p < fraction x max p is out
    bound = log_p.exp().amax(-1, keepdim=True) * fraction
    is_out = log_p.exp() < bound
    kept = log_p.masked_fill(is_out, -torch.inf).logsumexp(-1)
    return torch.where(logprobs.exp() < bound.squeeze(-1), FILTERED, logprobs - kept)


def _tempered(logits: Tensor, targets: Tensor, ratio: float) -> Tensor:
    scaled = logits * ratio
    return scaled.gather(-1, targets.unsqueeze(-1)).squeeze(-1) - scaled.logsumexp(-1)


_GRADIENTS = {
    "top_p_entropy": top_p_entropy_gradient,
    "nucleus_entropy": nucleus_entropy_gradient,
}


def _is_share(value: float) -> bool:
    return 0 < value <= 1


def _is_count(value: float) -> bool:
    return value.is_integer() and value >= 1


_MASS = ("M", _is_share, "above 0, at most 1")
_COUNT = ("K", _is_count, "an integer above 0")
_PARAMETERS: dict[str, tuple[tuple[str, Callable[[float], bool], str], ...]] = {
    "sum_p2": (),
    "sum_p2_logp": (),
    "top_p_entropy": (_MASS, _COUNT),
    "nucleus_entropy": (_MASS, _COUNT),
    "top_k_entropy": (_COUNT,),
    "top_k_mass": (_COUNT,),
    "min_p_logprob": (("R", lambda value: 0 <= value <= 1, "between 0 and 1"),),
    "tempered_logprob": (("T", lambda value: 0 < value < math.inf, "a number above 0"),),
}
_OPTIONAL = {"top_p_entropy": 1, "nucleus_entropy": 1}
"""Of their parameters, the last so many may be left out."""


def statistic(kind: str, *parameters: float) -> str:
    """Return the name of a statistic.

    Raises:
        ValueError: If there is none of this kind, or it takes other parameters.

    Example:
        >>> statistic("top_p_entropy", 0.8), statistic("top_k_mass", 10)
        ('top_p_entropy:0.8', 'top_k_mass:10')
    """
    name = ":".join([kind, *(repr(value).removesuffix(".0") for value in parameters)])
    parse(name)
    return name


def parse(name: str) -> tuple[str, list[float]]:
    """Return kind and parameters of a statistic's name.

    Raises:
        ValueError: If there is none of this name.
    """
    kind, *rest = name.split(":")
    if kind not in _PARAMETERS:
        raise ValueError(unknown_name("statistic", kind, _PARAMETERS))
    parameters = _PARAMETERS[kind]
    letters = [letter for letter, _, _ in parameters]
    least = len(parameters) - _OPTIONAL.get(kind, 0)
    if not least <= len(rest) <= len(parameters):
        form = ":".join([kind, *letters[:least]]) + "".join(f"[:{one}]" for one in letters[least:])
        raise ValueError(f"statistic {name!r} has {len(rest)} parameters; it is written {form}")
    return kind, [
        _number(name, text, *parameter)
        for text, parameter in zip(rest, parameters, strict=False)  # optional ones may be missing
    ]


def _number(
    name: str, text: str, letter: str, allows: Callable[[float], bool], allowed: str
) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not allows(value):
        raise ValueError(f"statistic {name!r}: {letter} is {text}; it is {allowed}")
    return value


def carries_gradient(name: str) -> bool:
    """Return whether a statistic has a gradient."""
    return parse(name)[0] in _GRADIENTS


def of_logits(
    logits: Float[Tensor, "N V"],
    targets: Int[Tensor, " N"],
    names: Iterable[str],
    *,
    temperature: float = 1.0,
) -> dict[str, Float[Tensor, " N"]]:
    """Return the named statistics of softmax(logits / temperature).

    Example:
        >>> of_logits(torch.zeros(1, 4), torch.tensor([2]), ["sum_p2", "tempered_logprob:2"])
        {'sum_p2': tensor([0.2500]), 'tempered_logprob:2': tensor([-1.3863])}
    """
    log_p = torch.log_softmax(logits / temperature, dim=-1)
    logprobs = log_p.gather(-1, targets.unsqueeze(-1)).squeeze(-1)

    def top(count: float) -> Tensor:
        return log_p.topk(min(int(count), log_p.shape[-1]), dim=-1).values

    found: dict[str, Tensor] = {}
    for name in names:
        kind, parameters = parse(name)
        match kind:
            case "sum_p2":
                value = (2 * log_p).exp().sum(-1)
            case "sum_p2_logp":
                value = ((2 * log_p).exp() * log_p.clamp(min=LOWEST)).sum(-1)
            case "top_p_entropy":
                value = top_p_entropy(log_p, parameters[0], *map(int, parameters[1:]))
            case "nucleus_entropy":
                value = nucleus_entropy(log_p, parameters[0], *map(int, parameters[1:]))
            case "top_k_entropy":
                ranked = top(parameters[0])
                value = -(ranked.exp() * ranked.clamp(min=LOWEST)).sum(-1)
            case "top_k_mass":
                value = top(parameters[0]).exp().sum(-1)
            case "min_p_logprob":
                value = min_p_logprob(log_p, logprobs, parameters[0])
            case _:
                value = _tempered(logits, targets, 1 / parameters[0])
        found[name] = value if kind in _GRADIENTS else value.detach()
    return found


def gradient(log_p: Float[Tensor, "N V"], name: str) -> Float[Tensor, "N V"]:
    """Return the gradient, by the logits over the temperature, of a statistic that carries one."""
    kind, parameters = parse(name)
    return _GRADIENTS[kind](log_p, parameters[0], *map(int, parameters[1:]))
