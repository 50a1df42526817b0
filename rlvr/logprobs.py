"""Log-probs, entropies and statistics of a model's tokens, from its last hidden states: by the kernel, or by its own head.

`add_token_forward` teaches a model to hand its hidden states and its head to a function inside its own forward, where
what distributes the model (DDP, ZeRO, FSDP) counts on every parameter being used.
"""

import functools
import types
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from rlvr.head import Head
from rlvr.kernels.linear import (
    Certificate,
    Implementation,
    Result,
    choose,
    linear_logprob_entropy,
    operand_dtype,
)
from rlvr.kernels.naive import logprob_entropy
from rlvr.kernels.projection import IGNORED, compute_dtype
from rlvr.kernels.statistics import of_logits

CHUNK = 2**24
"""Logits at a time where the head is called as a module."""

Score = Callable[[Float[Tensor, "B S H"], Head], dict[str, Tensor]]
"""From the last hidden states of a batch and the model's head to what its forward returns."""


@dataclass(frozen=True)
class KernelOptions:
    """How log-probs are computed; see `rlvr.kernels.linear`."""

    impl: Implementation = "auto"
    cache_bytes: int | None = None
    """Memory for logits kept for the backward pass."""
    tolerance: float | None = None
    """Of a certificate; None: the gradient is exact."""


def describe(
    head: Head,
    options: KernelOptions,
    names: Sequence[str],
    *,
    device: torch.device,
    dtype: torch.dtype,
) -> str:
    """Return in words how log-probs will be computed.

    Args:
        head: Of the policy.
        options: Of the recipe.
        names: Of the statistics.
        device: Where the policy is.
        dtype: Of its hidden states.

    Raises:
        ValueError: If the options cannot be kept to.
    """
    if head.refusal is not None:
        if options.impl not in ("auto", "naive"):
            raise ValueError(
                f"kernel.impl is {options.impl}, but the model's head cannot be read as a matrix: {head.refusal}; use "
                "kernel.impl: auto"
            )
        return f"by the model's own head, {CHUNK:,} logits at a time ({head.refusal})"
    hidden = torch.empty(1, 1, dtype=dtype, device=device)
    # of a long batch: of a short one logits may still be computed at once
    rows = torch.iinfo(torch.int32).max
    chosen = choose(
        hidden, head.weight, rows, names, options.tolerance is not None, impl=options.impl
    )
    exact = "exact" if options.tolerance is None else f"certified to {options.tolerance:g}"
    number = str(operand_dtype(hidden)).removeprefix("torch.")
    return f"{chosen}, {number}, gradient {exact}"


def of_tokens(
    hidden: Float[Tensor, "B T H"],
    head: Head,
    targets: Int[Tensor, "B T"],
    mask: Bool[Tensor, "B T"],
    names: Collection[str] = (),
    *,
    temperature: float = 1.0,
    options: KernelOptions | None = None,
    live: Bool[Tensor, "B T"] | None = None,
    certificate: Certificate | None = None,
) -> Result:
    """Return log-probs, entropies and statistics of softmax(logits / temperature); 0 outside the mask.

    Args:
        hidden: Last hidden state at the position before each token.
        head: Of the model.
        targets: Sampled tokens.
        mask: Tokens that exist.
        names: Of statistics.
        temperature: Of the distribution.
        options: Of the kernel; None: the defaults.
        live: Tokens expected to have a gradient.
        certificate: For the backward pass of this call.
    """
    options = options or KernelOptions()
    names = sorted(names)
    if head.refusal is not None:
        return _by_module(hidden, head, targets, mask, names, temperature=temperature)
    parts = head.linear(hidden)
    return linear_logprob_entropy(
        hidden,
        parts.weight,
        targets.masked_fill(~mask, IGNORED),
        bias=parts.bias,
        low_rank=parts.low_rank,
        temperature=temperature,
        softcap=head.cap,
        logit_scale=head.scale,
        statistics=names,
        live=live,
        cache_bytes=options.cache_bytes,
        certificate=certificate,
        impl=options.impl,
    )


def _by_module(
    hidden: Tensor,
    head: Head,
    targets: Tensor,
    mask: Tensor,
    names: Sequence[str],
    *,
    temperature: float,
) -> Result:
    """Return the same with logits that the head makes as a module, and makes again in the backward pass."""
    dtype = compute_dtype(hidden.dtype)

    def of(part: Tensor, taken: Tensor) -> tuple[Tensor, ...]:
        logits = head(part).to(dtype)
        found = of_logits(logits, taken, names, temperature=temperature)
        return *logprob_entropy(logits, taken, temperature=temperature), *found.values()

    size = max(CHUNK // head.vocabulary, 1)
    rows = zip(hidden[mask].split(size), targets[mask].split(size), strict=True)
    chunks = [checkpoint(of, part, taken, use_reentrant=False) for part, taken in rows]
    whole = [
        values[0].new_zeros(mask.shape).masked_scatter(mask, torch.cat(values))
        for values in zip(*chunks, strict=True)
    ]
    return Result(whole[0], whole[1], dict(zip(names, whole[2:], strict=True)))


def add_token_forward(model: Any) -> None:
    """Let `model(..., score=f)` return f(last hidden states, head), and `aux_loss` where router logits are asked for.

    Without `score` the forward is the model's own. f runs inside the forward, so a gradient reaches what distributes
    the model; it returns a dictionary of tensors.

    Args:
        model: A causal language model of transformers, without an adapter's wrapper around it.
    """
    own = model.forward
    config = model.config.get_text_config()

    # the model's own signature: `generate` looks at it
    @functools.wraps(type(model).forward)
    def forward(
        self: Any, *args: Any, score: Score | None = None, labels: Any = None, **kwargs: Any
    ) -> Any:
        if score is None:
            return own(*args, labels=labels, **kwargs)
        output = self.base_model(*args, use_cache=False, **kwargs)
        head = Head(self.get_output_embeddings(), config)
        found = score(output.last_hidden_state, head)
        if kwargs.get("output_router_logits"):
            found["aux_loss"] = _router_loss(
                output.router_logits, config, kwargs.get("attention_mask")
            )
        return found

    model.forward = types.MethodType(forward, model)


def _router_loss(router_logits: Any, config: Any, attention_mask: Tensor | None) -> Tensor:
    """Return a mixture of experts' load balancing loss: all of transformers' have Mixtral's."""
    from transformers.models.mixtral.modeling_mixtral import load_balancing_loss_func

    loss = load_balancing_loss_func(
        router_logits, config.num_experts, config.num_experts_per_tok, attention_mask
    )
    assert isinstance(loss, Tensor)  # there are router logits
    return loss
