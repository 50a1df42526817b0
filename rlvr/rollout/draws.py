"""Sampling whose result depends on the completion's own seed alone, not on what is sampled beside it.

transformers draws all rows of a batch from one generator, so that a completion changes with the batch size, the number of
processes, and what else is in the batch. Here each completion has a stream of uniform numbers of its own, one a token, and a
token is drawn by inverting the distribution function:

    token t = the first v with  Σ_{w <= v} p(w)  >  u_t
"""

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import LogitsProcessor


def seed_of(*parts: object) -> int:
    """Return a seed, 0..2^63, that is a function of the parts alone.

    Example:
        >>> seed_of(42, 7) == seed_of(42, 7), seed_of(42, 7) == seed_of(427)
        (True, False)
    """
    text = "/".join(map(str, parts)).encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest()) >> 1


def uniforms(seeds: Sequence[int], count: int) -> Float[Tensor, "B T"]:
    """Return `count` numbers in [0, 1) for each seed, float64.

    Those of a seed do not depend on the others, nor, but for their number, on `count`.
    """
    found = torch.empty(len(seeds), count, dtype=torch.float64)
    generator = torch.Generator()
    for row, seed in zip(found, seeds, strict=True):
        generator.manual_seed(seed)
        row.uniform_(generator=generator)
    return found


def inverse(scores: Float[Tensor, "B V"], uniform: Float[Tensor, " B"]) -> Int[Tensor, " B"]:
    """Return the token of each row that its uniform number stands for; never one of probability 0.

    Args:
        scores: Logits; -inf: never drawn.
        uniform: In [0, 1).
    """
    total = scores.double().softmax(-1).cumsum(-1)
    # of the last sum, which rounding keeps from being 1
    wanted = uniform.unsqueeze(-1) * total[:, -1:]
    # beyond the last only where logits are no numbers: the loss will say so
    return torch.searchsorted(total, wanted, right=True).squeeze(-1).clamp(max=scores.shape[-1] - 1)


class InverseSampling(LogitsProcessor):
    """Leaves of each row's distribution the one token that its own uniform number stands for.

    Args:
        uniforms: Of each row and token of the completion.
    """

    def __init__(self, uniforms: Float[Tensor, "B T"]) -> None:
        self._uniforms = uniforms
        self._start: int | None = None

    def __call__(self, input_ids: Any, scores: Any) -> Any:
        """Return scores of which one token of each row is left."""
        if self._start is None:
            self._start = input_ids.shape[1]
        uniform = self._uniforms[:, input_ids.shape[1] - self._start].to(scores.device)
        token = inverse(scores, uniform).unsqueeze(-1)
        return torch.full_like(scores, -torch.inf).scatter_(-1, token, 0.0)


@contextmanager
def drawing(model: Any, seeds: Sequence[int], count: int) -> Iterator[None]:
    """Let a model's `generate` draw each row by its own seed, after everything else that changes its distribution.

    Args:
        model: Of transformers.
        seeds: One for each row of the next call of `generate`.
        count: Tokens of a completion, at most.
    """
    make = model._get_logits_processor

    def with_draws(generation_config: Any, **options: Any) -> Any:
        processors = make(generation_config=generation_config, **options)
        # processors that a caller gives come before temperature and nucleus: this one has to be the last
        processors.append(InverseSampling(uniforms(seeds, count)))
        # of which only one token is left: there is nothing more to draw
        generation_config.do_sample = False
        return processors

    model._get_logits_processor = with_draws
    try:
        yield
    finally:
        del model._get_logits_processor
