"""What of a model decides memory and time: its parameters counted from its configuration alone, without weights."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rlvr.recipe import Model
from rlvr.suggest import unknown_name

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedConfig


@dataclass(frozen=True)
class ModelShape:
    """A causal language model's sizes; counts are of numbers, not bytes."""

    name: str
    parameters: int
    """All, a matrix that embedding and head share once."""
    matrices: int
    """Those of the layers' matrices: what is multiplied in the computing dtype, and what quantization shrinks."""
    head: int
    """Those of the head, which may be the embedding's too."""
    active: int
    """Those that one token is multiplied with, the head included; of a mixture, the experts it goes to."""
    experts: int
    """Those of all experts together; 0: there are none."""
    layers: int
    hidden: int
    """Width of the residual stream."""
    heads: int
    kv_heads: int
    head_dim: int
    intermediate: int
    """Width of the feed-forward part that one token goes through; of a mixture, of all experts it goes to."""
    vocabulary: int
    normalizes_heads: bool = False
    """Whether queries and keys are normalized (Qwen 3)."""
    experts_per_token: int = 1
    expert_count: int = 1
    linear_width: int = 0
    """Inputs and outputs of the layers' linear modules, added up: parameters of an adapter of rank 1 on all of them."""
    context: int | None = None
    """Tokens, prompt and completion; None: any."""
    adapter: int | None = None
    """Those of the recipe's adapter, which are trained alone; None: there is none."""

    @property
    def queries(self) -> int:
        """Width of the queries of a token."""
        return self.heads * self.head_dim

    @property
    def keys(self) -> int:
        """Width of the keys of a token, and of its values."""
        return self.kv_heads * self.head_dim

    @property
    def largest_layer(self) -> int:
        """Parameters of a layer, or of the head."""
        return max(self.matrices // self.layers, self.head)


# configurations of Qwen2.5, https://huggingface.co/Qwen:
# layers, hidden, intermediate, heads, key heads, vocabulary, tied
_SIZES = {
    "0.5b": (24, 896, 4864, 14, 2, 151936, True),
    "1.5b": (28, 1536, 8960, 12, 2, 151936, True),
    "3b": (36, 2048, 11008, 16, 2, 151936, True),
    "7b": (28, 3584, 18944, 28, 4, 152064, False),
    "14b": (48, 5120, 13824, 40, 8, 152064, False),
    "32b": (64, 5120, 27648, 40, 8, 152064, False),
    "72b": (80, 8192, 29568, 64, 8, 152064, False),
}
SIZES = tuple(_SIZES)
"""For `rlvr check --model-size`."""


def usual_config(size: str) -> "PreTrainedConfig":
    """Return the configuration of the Qwen2.5 model of a size, for a model whose own is out of reach.

    Raises:
        ValueError: If there is none of this size.
    """
    if size.lower() not in _SIZES:
        raise ValueError(f"--model-size: {unknown_name('size', size, SIZES)}")
    from transformers import Qwen2Config

    layers, hidden, intermediate, heads, kv_heads, vocabulary, tied = _SIZES[size.lower()]
    return Qwen2Config(
        num_hidden_layers=layers,
        hidden_size=hidden,
        intermediate_size=intermediate,
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        vocab_size=vocabulary,
        tie_word_embeddings=tied,
    )


def load_config(model: Model) -> "PreTrainedConfig":
    """Return the configuration of a folder, or of the hub or its cache.

    Raises:
        OSError: If there is none, or the hub cannot be reached.
        ValueError: If transformers does not know its kind.
    """
    from transformers import AutoConfig

    from rlvr.reach import cache_if_unreachable

    with cache_if_unreachable(model.path):
        return AutoConfig.from_pretrained(
            model.path, revision=model.revision, trust_remote_code=model.trust_remote_code
        )


def shape_of(
    config: "PreTrainedConfig", name: str, adapter: Any = None, *, trust_remote_code: bool = False
) -> ModelShape:
    """Return the sizes of the model that a configuration describes, made without memory for its weights.

    Args:
        config: As transformers has it.
        name: What it is called in messages.
        adapter: A `LoraConfig`; None: all weights are trained.
        trust_remote_code: Whether code that comes with the model may run.
    """
    import torch
    from transformers import AutoModelForCausalLM

    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config, trust_remote_code=trust_remote_code)
    text = config.get_text_config()
    embedding, head = model.get_input_embeddings().weight, model.get_output_embeddings().weight
    parameters = dict(model.named_parameters())  # a shared one comes once
    total = sum(item.numel() for item in parameters.values())
    experts = sum(item.numel() for key, item in parameters.items() if ".experts." in key)
    count, chosen = _experts(text) if experts else (1, 1)
    looked_up = 0 if head is embedding else embedding.numel()
    heads = text.num_attention_heads
    return ModelShape(
        name=name,
        parameters=total,
        matrices=sum(
            item.numel()
            for item in parameters.values()
            if item.dim() > 1 and item is not embedding and item is not head
        ),
        head=head.numel(),
        active=total - looked_up - experts + experts * chosen // count,
        experts=experts,
        layers=text.num_hidden_layers,
        hidden=text.hidden_size,
        heads=heads,
        kv_heads=getattr(text, "num_key_value_heads", None) or heads,
        head_dim=getattr(text, "head_dim", None) or text.hidden_size // heads,
        intermediate=_width(text, chosen if experts else None),
        vocabulary=head.shape[0],
        normalizes_heads=any("q_norm" in key for key in parameters),
        experts_per_token=chosen,
        expert_count=count,
        linear_width=sum(a + b for a, b in _linear_sizes(model)),
        context=getattr(text, "max_position_embeddings", None),
        adapter=None if adapter is None else _adapter_size(model, adapter),
    )


def _experts(config: Any) -> tuple[int, int]:
    """Return the number of a layer's experts, and how many a token goes to."""
    names = ("num_experts", "num_local_experts", "n_routed_experts")
    count = next(getattr(config, name) for name in names if hasattr(config, name))
    return count, config.num_experts_per_tok


def _width(config: Any, chosen: int | None) -> int:
    dense = getattr(config, "intermediate_size", None) or 4 * config.hidden_size
    if chosen is None:
        return dense
    routed = chosen * (getattr(config, "moe_intermediate_size", None) or dense)
    return routed + (getattr(config, "shared_expert_intermediate_size", None) or 0)


def _linear_sizes(model: "nn.Module") -> Iterator[tuple[int, int]]:
    from torch import nn

    head: Any = model.get_output_embeddings()  # type: ignore[operator]
    for module in model.modules():
        if isinstance(module, nn.Linear) and module is not head:
            yield module.in_features, module.out_features


def _adapter_size(model: Any, adapter: Any) -> int:
    """Return the parameters that peft trains; it changes the model."""
    from peft import get_peft_model

    adapted = get_peft_model(model, adapter, low_cpu_mem_usage=True)
    return sum(item.numel() for item in adapted.parameters() if item.requires_grad)
