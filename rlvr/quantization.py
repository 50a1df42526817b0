"""A base model kept in few bits under a trained adapter (QLoRA), by bitsandbytes.

    4bit    NF4 with double quantization: about 0.52 bytes a weight; products in `model.dtype`
    8bit    LLM.int8: 1 byte a weight; activations are rounded too, by columns that the rest of a batch has a say in

Embeddings, norms and the head stay as they are, so log-probs come from the head's own matrix. The adapter is trained in
float32.

Paper: QLoRA: Efficient Finetuning of Quantized LLMs https://arxiv.org/abs/2305.14314
"""

from typing import TYPE_CHECKING, Any

from rlvr.zero import zero_stage

if TYPE_CHECKING:
    import torch
    from transformers import BitsAndBytesConfig


def quantization_config(kind: str, dtype: "torch.dtype") -> "BitsAndBytesConfig":
    """Return what transformers loads a base with.

    Args:
        kind: `4bit` or `8bit`.
        dtype: Of products with 4-bit weights.
    """
    from transformers import BitsAndBytesConfig

    if kind == "8bit":
        return BitsAndBytesConfig(load_in_8bit=True)
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=dtype,
    )


def refusal(kind: str) -> str | None:
    """Return why this process cannot train on such a base, as the rest of a sentence on it; None: it can."""
    import torch

    if kind == "4bit" and not torch.cuda.is_available():
        return (
            "is 4bit, but this process sees no GPU: on a CPU with AVX512-BF16 bitsandbytes 0.50 gives no gradient once it "
            "has sampled, and on any wrong weights where a matrix is not a multiple of 64 wide; set "
            "model.quantization=8bit, or null."
        )
    if zero_stage() == 3:
        return (
            f"is {kind}, but DeepSpeed ZeRO-3 divides weights among processes, which bitsandbytes' cannot be; use "
            "ZeRO-2 (recipes/accelerate/zero2.yaml): the base is a quarter of its size already."
        )
    return None


def train_in_float32(model: Any) -> None:
    """Keep a quantized model's adapter in float32: TRL rounds it to bfloat16, in which small steps vanish."""
    if getattr(model, "is_quantized", False):
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.data = parameter.data.float()
