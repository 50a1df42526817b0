"""Hidden states, heads and targets that look like a policy's, for the benchmark of the kernel and its check on a GPU.

Of a policy: most tokens are nearly certain, the others choose between a few candidates; candidates follow Zipf's law, and so
does what is left to all other tokens, through a direction that all rows of the head share. The mean of the largest logit is
about 20, that of the entropy 0.2 to 0.5 nats. Noise without structure has a flat softmax, of which no kernel can go wrong.
"""

import math
from dataclasses import dataclass, replace
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from rlvr.kernels.naive import linear_logprob_entropy

Pattern = Literal["all", "half", "fifth"]

CANDIDATES = 8
TOP_LOGIT, TOP_SPREAD = 20.0, 2.0
CERTAIN = 0.7
"""Share of the tokens that are nearly certain."""
FORCED = 1 / 256
"""Share of targets that are no candidates."""
COMMON = 10.0
"""Length of hidden states along the direction that all rows of the head share."""
SEQUENCES = 16
ENTROPY_COEF = 0.1
TRUTH_ROWS = 128


@dataclass(frozen=True)
class Problem:
    """What an implementation is given, and what the loss asks of it."""

    hidden: Float[Tensor, "N H"]
    weight: Float[Tensor, "V H"]
    targets: Int[Tensor, " N"]
    of_logprobs: Float[Tensor, " N"]
    """Gradient of the loss by the log-probs, float32."""
    of_entropies: Float[Tensor, " N"] | None
    """The same by the entropies; None: entropies are only looked at."""
    live: Bool[Tensor, " N"] | None
    """Rows with a gradient, where that is known before forward, as of groups whose rewards are all the same."""
    temperature: float = 1.0

    def copy(self) -> "Problem":
        """Return the same in other memory, ready for another backward pass."""
        return replace(
            self,
            hidden=_leaf(self.hidden.detach().clone()),
            weight=_leaf(self.weight.detach().clone()),
        )

    def part(self, most: int) -> "Problem":
        """Return the problem of some of the rows, evenly spread, with the same head."""
        step = -(-len(self.targets) // most)
        e, live = self.of_entropies, self.live
        return replace(
            self,
            hidden=_leaf(self.hidden.detach()[::step].contiguous()),
            targets=self.targets[::step],
            of_logprobs=self.of_logprobs[::step],
            of_entropies=None if e is None else e[::step],
            live=None if live is None else live[::step],
        )


@dataclass(frozen=True)
class Truth:
    """The result of a problem in float64."""

    logprobs: Float[Tensor, " N"]
    entropies: Float[Tensor, " N"]
    of_hidden: Float[Tensor, "N H"]
    of_weight: Float[Tensor, "V H"]
    max_logit: float
    """Mean over rows."""


def problem(
    rows: int,
    hidden_size: int,
    vocabulary: int,
    *,
    dtype: torch.dtype,
    device: torch.device,
    pattern: Pattern = "all",
    entropy_gradient: bool = False,
    seed: int = 0,
) -> Problem:
    """Return hidden states, head, targets and upstream gradients.

    Args:
        rows: N.
        hidden_size: H.
        vocabulary: V.
        dtype: Of hidden states and head.
        device: Where they are made.
        pattern: Rows with a gradient: `all`; `half`, whole sequences, as with groups whose rewards are all the same;
            `fifth`, those of the largest entropy.
        entropy_gradient: Whether the loss has an entropy term.
        seed: Of everything.
    """
    source = torch.Generator(device).manual_seed(seed)
    weight, by_rank = _head(vocabulary, hidden_size, dtype, source)
    hidden, targets, entropies = _states(rows, weight, by_rank, source)
    sequence = torch.arange(rows, device=device) * SEQUENCES // rows
    live = None
    if pattern == "all":
        is_live = torch.ones(rows, dtype=torch.bool, device=device)
    elif pattern == "half":
        live = is_live = sequence % 2 == 0
    else:
        is_live = torch.zeros(rows, dtype=torch.bool, device=device)
        is_live[entropies.topk(max(rows // 5, 1)).indices] = True
    advantages = torch.randn(SEQUENCES, generator=source, device=device)[sequence]
    g = torch.where(is_live, -advantages / rows, 0.0)
    e = torch.where(is_live, -ENTROPY_COEF / rows, 0.0) if entropy_gradient else None
    return Problem(_leaf(hidden), _leaf(weight), targets, g, e, live)


def truth(given: Problem) -> Truth:
    """Return the result in float64, some rows at a time."""
    weight = _leaf(given.weight.detach().double())
    hidden = _leaf(given.hidden.detach().double())
    found: list[tuple[Tensor, Tensor]] = []
    tops = []
    for start in range(0, len(hidden), TRUTH_ROWS):
        part = slice(start, start + TRUTH_ROWS)
        logprobs, entropies, _ = linear_logprob_entropy(
            hidden[part], weight, given.targets[part], temperature=given.temperature
        )
        loss = logprobs @ given.of_logprobs[part].double()
        if given.of_entropies is not None:
            loss = loss + entropies @ given.of_entropies[part].double()
        loss.backward()
        found.append((logprobs.detach(), entropies.detach()))
        tops.append((hidden[part].detach() @ weight.detach().T).amax(1))
    assert hidden.grad is not None
    assert weight.grad is not None
    logprobs, entropies = (torch.cat(values) for values in zip(*found, strict=True))
    return Truth(logprobs, entropies, hidden.grad, weight.grad, float(torch.cat(tops).mean()))


def _head(
    vocabulary: int, hidden_size: int, dtype: torch.dtype, source: torch.Generator
) -> tuple[Float[Tensor, "V H"], Int[Tensor, " V"]]:
    """Return a head whose rows have a common direction by Zipf's law, and its tokens by rank."""
    device = source.device
    shared = torch.randn(hidden_size, generator=source, device=device)
    shared /= shared.norm()
    # ids of a tokenizer follow frequency, though not strictly
    place = torch.arange(1, vocabulary + 1, device=device).log()
    place += torch.randn(vocabulary, generator=source, device=device)
    by_rank = place.argsort()
    prior = torch.empty(vocabulary, device=device)
    prior[by_rank] = -(torch.arange(vocabulary, device=device) + 2.7).log()
    weight = torch.empty(vocabulary, hidden_size, dtype=dtype, device=device)
    for start in range(0, vocabulary, 2**14):
        part = weight[start : start + 2**14]
        own = torch.randn(part.shape, generator=source, device=device) / hidden_size**0.5
        part.copy_(own + prior[start : start + 2**14, None] / COMMON * shared)
    return weight, by_rank


def _states(
    rows: int, weight: Float[Tensor, "V H"], by_rank: Int[Tensor, " V"], source: torch.Generator
) -> tuple[Float[Tensor, "N H"], Int[Tensor, " N"], Float[Tensor, " N"]]:
    """Return hidden states with the wanted logits of their candidates, targets, and entropies among the candidates."""
    device, vocabulary = weight.device, len(weight)

    def uniform(*shape: int) -> Tensor:
        return torch.rand(*shape, generator=source, device=device)

    def zipf(quantile: Tensor) -> Tensor:
        return by_rank[
            ((quantile * math.log(vocabulary)).exp().long() - 1).clamp_(0, vocabulary - 1)
        ]

    certain = uniform(rows) < CERTAIN
    # one of each eighth of the law: candidates differ
    eighth = uniform(rows, CANDIDATES).argsort(1)
    tokens = zipf((eighth + uniform(rows, CANDIDATES)) / CANDIDATES)
    steps = -uniform(rows, CANDIDATES).clamp_min_(1e-6).log()
    gaps = torch.where(certain[:, None], 6 + 3 * steps, 2 * steps)
    gaps[:, 0] = 0
    top = TOP_LOGIT + TOP_SPREAD * torch.randn(rows, generator=source, device=device)
    wanted = top[:, None] - gaps
    hidden = torch.empty(rows, weight.shape[1], dtype=weight.dtype, device=device)
    shared = (
        -weight[: 2**14].float().mean(0)
    )  # the rows' own parts cancel, and their shares of it are negative
    shared /= shared.norm()
    for start in range(0, rows, 2**12):
        part = slice(start, start + 2**12)
        own = weight[tokens[part]].float()  # (n, CANDIDATES, H)
        # along the shared direction candidates would raise or lower every token
        only = own - (own @ shared).unsqueeze(-1) * shared
        gram = own @ only.mT + 1e-3 * torch.eye(CANDIDATES, device=device)
        missing = wanted[part] - COMMON * (own @ shared)
        boost = torch.linalg.solve(gram, missing.unsqueeze(-1)).squeeze(-1)
        hidden[part] = (COMMON * shared + torch.einsum("nk,nkh->nh", boost, only)).to(hidden.dtype)
    log_p = wanted.log_softmax(1)
    chosen = torch.multinomial(log_p.exp(), 1, generator=source)
    targets = tokens.gather(1, chosen).squeeze(1)
    targets = torch.where(uniform(rows) < FORCED, zipf(uniform(rows)), targets)
    return hidden, targets, -(log_p.exp() * log_p).sum(1)


def _leaf(tensor: Tensor) -> Tensor:
    return tensor.requires_grad_()
