"""A causal language model's head: from hidden states to logits, scaled and capped as its configuration says."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from rlvr.kernels.linear import LowRank


@dataclass(frozen=True)
class Linear:
    """A head that is a matrix, with or without a bias and an adapter of low rank."""

    weight: Tensor
    bias: Tensor | None
    low_rank: LowRank | None


class Head:
    """The output embedding of a model with the scale and the cap that its own forward applies.

    Args:
        layer: From hidden states to raw logits.
        config: Of the (text) model. `logit_scale` (Cohere), `output_multiplier`, `lm_head_multiplier` (Falcon-H1)
            multiply; `logits_scaling` divides (Granite), and multiplies in HyperCLOVA X; `final_logit_softcapping`
            c gives c tanh(z / c) (Gemma 2).
    """

    def __init__(self, layer: nn.Module, config: Any) -> None:
        self.layer = layer
        self.scale = _scale(config)
        self.cap: float | None = getattr(config, "final_logit_softcapping", None)
        self.vocabulary = int(config.vocab_size)

    def __call__(self, hidden: Tensor) -> Tensor:
        """Return the logits, (N, V), of hidden states (N, H); the layer is called as a module."""
        logits = self.layer(hidden)
        if self.scale != 1:
            logits = logits * self.scale
        return logits if self.cap is None else (logits / self.cap).tanh() * self.cap

    @property
    def weight(self) -> Tensor:
        """The matrix without its adapters, (V, H); where there is no `refusal`."""
        return _base(_unwrapped(self.layer)).weight

    @property
    def refusal(self) -> str | None:
        """Why the layer is not a matrix with an adapter of low rank; None: it is one."""
        layer = _unwrapped(self.layer)
        base = _base(layer)
        # a quantized matrix is a Linear too, with a forward of its own
        if type(base).forward is not nn.Linear.forward or not base.weight.is_floating_point():
            return f"it is a {type(base).__name__}"
        for name in _adapters(layer):
            if name in getattr(layer, "lora_variant", {}):
                return f"its adapter {name!r} is not plain LoRA"
            if layer.lora_B[name].bias is not None:
                return f"its adapter {name!r} has a bias"
        return None

    def linear(self, hidden: Tensor) -> Linear:
        """Return the head's matrix, bias and adapter, the adapter's first matrix applied to the hidden states.

        Only where there is no `refusal`.
        """
        layer: Any = _unwrapped(self.layer)
        base = _base(layer)
        parts = []
        for name in _adapters(layer):
            first = layer.lora_A[name]
            own = layer.lora_dropout[name](hidden.to(first.weight.dtype))
            parts.append((first(own) * layer.scaling[name], layer.lora_B[name].weight))
        low_rank = None
        if parts:
            low, matrices = zip(*parts, strict=True)
            # one adapter, nearly always: its matrix must stay the parameter, which ZeRO-3 gathers
            matrix = matrices[0] if len(parts) == 1 else torch.cat(matrices, dim=1)
            low_rank = LowRank(torch.cat(low, dim=-1), matrix)
        return Linear(base.weight, base.bias, low_rank)


def _unwrapped(layer: nn.Module) -> Any:
    """Return the layer that peft's wrapper of a fully trained module calls now."""
    copies = getattr(layer, "modules_to_save", None)
    if copies is None:
        return layer
    wrapper: Any = layer
    active = [name for name in wrapper.active_adapters if name in copies]
    is_off = wrapper.disable_adapters or len(active) < len(wrapper.active_adapters)
    return wrapper.original_module if is_off or not active else copies[active[0]]


def _base(layer: Any) -> Any:
    """Return the layer without its adapters."""
    return getattr(layer, "base_layer", layer)


def _adapters(layer: Any) -> list[str]:
    """Return the names of the adapters that a layer adds now."""
    if not hasattr(layer, "lora_A") or layer.disable_adapters or layer.merged:
        return []
    return [name for name in layer.active_adapters if name in layer.lora_A]


def _scale(config: Any) -> float:
    for name in ("logit_scale", "output_multiplier", "lm_head_multiplier"):
        value = getattr(config, name, None)
        if value is not None:
            return float(value)
    divisor = getattr(config, "logits_scaling", None)
    if divisor is None:
        return 1.0
    return float(divisor) if config.model_type == "hyperclovax" else 1 / float(divisor)
