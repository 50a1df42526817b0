"""Whatever the head is made of, log-probs, statistics and gradients are those of the logits that the model makes."""

from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, LlamaConfig, MixtralConfig

from rlvr.head import Head
from rlvr.kernels.statistics import of_logits
from rlvr.logprobs import KernelOptions, add_token_forward, describe, of_tokens

NAMES = ["nucleus_entropy:0.9", "sum_p2"]
SIZES: dict[str, Any] = {
    "vocab_size": 300,
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "pad_token_id": 0,
}
TOKENS = torch.randint(1, 300, (3, 9), generator=torch.Generator().manual_seed(0))
MASK = torch.arange(5) < torch.tensor([[5], [2], [4]])


class Odd(nn.Linear):
    """A matrix with a forward of its own, as quantized ones have."""

    def forward(self, hidden: Tensor) -> Tensor:
        """Return twice the product."""
        return 2 * super().forward(hidden)


def plain(**changes: Any) -> Any:
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(LlamaConfig(**SIZES, **changes)).double()
    model.get_output_embeddings().weight.data.mul_(20)
    return model


def adapted(**options: Any) -> Any:
    config = LoraConfig(r=2, task_type="CAUSAL_LM", **options)
    model = get_peft_model(plain(), config).double()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.requires_grad and "modules_to_save" not in name:
                parameter.normal_(generator=torch.Generator().manual_seed(1))
    return model


def odd() -> Any:
    model = plain()
    layer = Odd(16, 300, bias=True).double()
    layer.weight.data = model.lm_head.weight.data
    model.lm_head = layer
    return model


def two_adapters() -> Any:
    model = adapted(target_modules=["lm_head"], lora_alpha=3)
    model.add_adapter("more", LoraConfig(r=4, target_modules=["lm_head"], task_type="CAUSAL_LM"))
    model.base_model.set_adapter(["default", "more"])
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.normal_(generator=generator)
    return model.double()


def switched_off() -> Any:
    model = adapted(target_modules=["lm_head"])
    model.base_model.disable_adapter_layers()
    return model


MODELS = {
    "plain": plain,
    "tied": lambda: plain(tie_word_embeddings=True),
    "adapter on the head": lambda: adapted(target_modules=["lm_head"], lora_alpha=8),
    "two adapters on the head": two_adapters,
    "adapter switched off": switched_off,
    "adapter elsewhere": lambda: adapted(target_modules=["q_proj"]),
    "head trained beside an adapter": lambda: adapted(
        target_modules=["q_proj"], modules_to_save=["lm_head"]
    ),
    "dora on the head": lambda: adapted(target_modules=["lm_head"], use_dora=True),
    "adapter with a bias": lambda: adapted(target_modules=["lm_head"], lora_bias=True),
    "forward of its own": odd,
}
BY_MODULE = {"dora on the head", "adapter with a bias", "forward of its own"}


def causal(model: Any) -> Any:
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def ours(model: Any, options: KernelOptions) -> dict[str, Tensor]:
    def score(hidden: Tensor, head: Head) -> dict[str, Tensor]:
        found = of_tokens(
            hidden[:, -6:-1],
            head,
            TOKENS[:, -5:],
            MASK,
            NAMES,
            temperature=0.7,
            options=options,
        )
        return {"logprobs": found.logprobs, "entropies": found.entropies, **found.statistics}

    add_token_forward(causal(model))
    return model(input_ids=TOKENS, attention_mask=torch.ones_like(TOKENS), score=score)


def expected(model: Any) -> dict[str, Tensor]:
    logits = model(input_ids=TOKENS).logits[:, -6:-1] / 0.7
    log_p = logits.log_softmax(-1)
    taken = TOKENS[:, -5:]
    found = of_logits(logits.flatten(0, 1), taken.flatten(), NAMES)
    return {
        "logprobs": log_p.gather(-1, taken.unsqueeze(-1)).squeeze(-1) * MASK,
        "entropies": -(log_p.exp() * log_p).sum(-1) * MASK,
        **{name: value.view(MASK.shape) * MASK for name, value in found.items()},
    }


def gradients(model: Any, values: dict[str, Tensor]) -> list[Tensor | None]:
    weights = torch.rand(
        MASK.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(3)
    )
    loss = sum((value * weights).sum() for value in values.values() if value.requires_grad)
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    if not parameters:
        return []
    return list(torch.autograd.grad(loss, parameters, allow_unused=True))


@pytest.mark.parametrize("impl", ["chunked", "naive"])
@pytest.mark.parametrize("kind", MODELS)
def test_values_and_gradients_are_those_of_the_models_own_logits(kind: str, impl: Any) -> None:
    model = MODELS[kind]().eval()
    want = expected(model)
    found = ours(model, KernelOptions(impl))
    assert set(found) == set(want)
    for name, value in found.items():
        torch.testing.assert_close(value, want[name], rtol=1e-10, atol=1e-12)
    if kind == "adapter switched off":
        return
    pairs = zip(gradients(model, found), gradients(model, want), strict=True)
    reached = 0
    for one, other in pairs:
        assert (one is None) == (other is None)
        if one is not None and other is not None:
            torch.testing.assert_close(one, other, rtol=1e-8, atol=1e-10)
            reached += 1
    assert reached > 0


@pytest.mark.parametrize("kind", MODELS)
def test_what_is_no_matrix_goes_through_the_heads_module_and_says_why(kind: str) -> None:
    model = causal(MODELS[kind]())
    head = Head(model.get_output_embeddings(), model.config)
    said = describe(head, KernelOptions(), [], device=torch.device("cpu"), dtype=torch.float32)
    assert (head.refusal is not None) == (kind in BY_MODULE)
    assert ("by the model's own head" in said) == (kind in BY_MODULE)
    if head.refusal is not None:
        with pytest.raises(ValueError, match=r"kernel\.impl is chunked"):
            describe(
                head,
                KernelOptions("chunked"),
                [],
                device=torch.device("cpu"),
                dtype=torch.float32,
            )


def test_dropout_of_an_adapter_is_that_of_its_module() -> None:
    model = adapted(target_modules=["lm_head"], lora_dropout=0.5)
    model.train()
    [layer] = [m for m in model.modules() if hasattr(m, "lora_dropout")]
    hidden = torch.randn(4, 16, dtype=torch.float64)
    torch.manual_seed(5)
    want = layer(hidden)
    head = Head(layer, causal(model).config)
    torch.manual_seed(5)
    parts = head.linear(hidden)
    assert parts.low_rank is not None
    made = hidden @ parts.weight.T + parts.low_rank.hidden @ parts.low_rank.weight.T
    torch.testing.assert_close(made, want)


def test_without_a_score_the_forward_is_the_models_own() -> None:
    model = plain()
    before = model(input_ids=TOKENS, labels=TOKENS)
    add_token_forward(model)
    after = model(input_ids=TOKENS, labels=TOKENS)
    assert torch.equal(before.logits, after.logits)
    assert torch.equal(before.loss, after.loss)
    assert model.generate(TOKENS[:, :2], max_new_tokens=3, do_sample=False).shape == (3, 5)


def test_the_auxiliary_loss_of_experts_is_the_models_own() -> None:
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(
        MixtralConfig(**SIZES, num_local_experts=4, num_experts_per_tok=2)
    )
    attention = torch.ones_like(TOKENS)
    attention[0, :3] = 0
    inputs = {"input_ids": TOKENS, "attention_mask": attention, "output_router_logits": True}
    want = model(**inputs).aux_loss
    add_token_forward(model)
    found = model(**inputs, score=lambda hidden, _head: {"hidden": hidden})
    torch.testing.assert_close(found["aux_loss"], want)
    assert "aux_loss" not in model(input_ids=TOKENS, score=lambda hidden, _: {"hidden": hidden})
