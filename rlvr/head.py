"""A causal language model's head as a function: hidden states -> logits, scaled and capped as its configuration says."""

from typing import Any

from torch import Tensor, nn


class Head:
    """The output embedding of a model with the scale and the cap that its own forward applies.

    Args:
        layer: From hidden states to raw logits; called as a module, so that what shards or adapts it takes part.
        config: Of the (text) model. `logit_scale` (Cohere), `output_multiplier`, `lm_head_multiplier` (Falcon-H1)
            multiply; `logits_scaling` divides (Granite), and multiplies in HyperCLOVA X; `final_logit_softcapping`
            c gives c tanh(z / c) (Gemma 2).
    """

    def __init__(self, layer: nn.Module, config: Any) -> None:
        self._layer = layer
        self._scale = _scale(config)
        self._cap = getattr(config, "final_logit_softcapping", None)

    def __call__(self, hidden: Tensor) -> Tensor:
        """Return the logits, (N, V), of hidden states (N, H)."""
        logits = self._layer(hidden)
        if self._scale != 1:
            logits = logits * self._scale
        return logits if self._cap is None else (logits / self._cap).tanh() * self._cap


def _scale(config: Any) -> float:
    for name in ("logit_scale", "output_multiplier", "lm_head_multiplier"):
        value = getattr(config, name, None)
        if value is not None:
            return float(value)
    divisor = getattr(config, "logits_scaling", None)
    if divisor is None:
        return 1.0
    return float(divisor) if config.model_type == "hyperclovax" else 1 / float(divisor)
