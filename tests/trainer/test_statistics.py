"""Statistics as the trainer takes them from a real model's head are those of its logits."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import (
    AutoModelForCausalLM,
    CohereConfig,
    Gemma2Config,
    GraniteConfig,
    LlamaConfig,
)

from rlvr.head import Head
from rlvr.kernels.statistics import of_logits
from tests.trainer import tiny

NAMES = ["min_p_logprob:0.1", "sum_p2", "sum_p2_logp", "top_k_mass:3", "top_p_entropy:0.8"]
SIZES: dict[str, Any] = {
    "vocab_size": 40,
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "pad_token_id": 0,
}
CONFIGS = {
    "plain": LlamaConfig(**SIZES),
    "softcap": Gemma2Config(**SIZES, head_dim=8, final_logit_softcapping=2.0),
    "logit_scale": CohereConfig(**SIZES, logit_scale=0.25),
    "logits_scaling": GraniteConfig(**SIZES, logits_scaling=4.0),
}


@pytest.mark.parametrize("kind", CONFIGS)
def test_the_head_scales_and_caps_as_the_models_own_forward(kind: str) -> None:
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(CONFIGS[kind]).eval()
    # larger than at the start of training, so that a cap shows
    model.get_output_embeddings().weight.data.mul_(30)
    tokens = torch.randint(1, 40, (2, 7))
    with torch.no_grad():
        hidden = model.base_model(tokens).last_hidden_state
        ours = Head(model.get_output_embeddings(), model.config.get_text_config())(hidden)
        theirs = model(tokens).logits
    torch.testing.assert_close(ours, theirs)
    raw = model.get_output_embeddings()(hidden)
    assert torch.equal(ours, raw) == (kind == "plain")


def expected(made: Any, batch: Any) -> dict[str, Tensor]:
    """Return the statistics from the whole logits of the model's own forward, 0 at padding."""
    tokens = torch.cat([batch.prompt_ids, batch.completion_ids], 1)
    attention = torch.cat([batch.prompt_mask, batch.completion_mask], 1).long()
    positions = (attention.cumsum(-1) - 1).clamp(min=0)
    output = made.model(input_ids=tokens, attention_mask=attention, position_ids=positions)
    width = batch.completion_ids.shape[1]
    logits = output.logits[:, -width - 1 : -1]
    found = of_logits(
        logits.flatten(0, 1), batch.completion_ids.flatten(), NAMES, temperature=made.temperature
    )
    return {
        name: values.view(batch.mask.shape).masked_fill(~batch.completion_mask, 0.0)
        for name, values in found.items()
    }


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_policys_statistics_are_those_of_its_logits(tmp_path: Path, dtype: torch.dtype) -> None:
    made = tiny.trainer(tmp_path, dtype=dtype, temperature=0.8)
    batch = tiny.rollout(dtype=dtype)
    found = made.look(batch, NAMES).statistics
    assert list(found) == NAMES
    with torch.no_grad():
        torch.testing.assert_close(dict(found), expected(made, batch), rtol=1e-4, atol=1e-5)


def test_the_gradient_reaches_the_model_through_the_chunks(tmp_path: Path) -> None:
    made = tiny.trainer(tmp_path, dtype=torch.float64)
    batch = tiny.rollout()
    ours, _ = made._forward(made.model, batch, NAMES)
    parameters = list(made.model.parameters())
    name = "top_p_entropy:0.8"
    assert not ours.statistics["sum_p2"].requires_grad
    gradients = [
        torch.autograd.grad(value.sum(), parameters, allow_unused=True)
        for value in (ours.statistics[name], expected(made, batch)[name])
    ]
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other)
    assert any(one is not None and one.abs().max() > 1e-3 for one in gradients[0])


def test_an_adapter_takes_part(tmp_path: Path) -> None:
    from peft import LoraConfig

    config = LoraConfig(r=2, target_modules=["q_proj"], task_type="CAUSAL_LM")
    made = tiny.trainer(tmp_path, peft_config=config)
    batch = tiny.rollout(dtype=torch.float32)
    with torch.no_grad():
        for parameter in made.model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.3)
        torch.testing.assert_close(
            dict(made.look(batch, NAMES).statistics), expected(made, batch), rtol=1e-4, atol=1e-5
        )
