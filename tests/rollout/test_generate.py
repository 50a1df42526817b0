"""What a prompt's completions share is computed once, and nothing shows it."""

import pytest
import torch
from transformers import (
    AutoTokenizer,
    GenerationConfig,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
)

from rlvr.rollout import generate
from tests.trainer import tiny

SIZES = {
    "vocab_size": 61,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
}
PROMPTS = [[5, 9, 12], [7], [3, 4, 5, 6, 7, 8, 9]]
END = 2


def config(**changes):
    return GenerationConfig(
        **{"max_new_tokens": 12, "do_sample": True, "eos_token_id": END, "pad_token_id": 0}
        | changes
    )


def model(kind=LlamaForCausalLM, sizes=LlamaConfig, **changes):
    torch.manual_seed(0)
    return kind(sizes(**SIZES, **changes)).double().eval()


def sampled(policy, prompts, seeds, **changes):
    return generate.generate(
        policy, prompts, seeds=seeds, config=config(**changes), ends=[END], pad_token=0
    )


def test_a_shared_prompt_gives_the_completions_of_a_prompt_that_is_not_shared(monkeypatch):
    policy = model()
    prompts = [PROMPTS[i % 3] for i in range(30)]
    shared = sampled(policy, prompts, range(30))
    assert len({tuple(ids) for ids in shared}) > 20
    monkeypatch.setattr(generate, "shares_prompts", lambda *_: False)
    assert sampled(policy, prompts, range(30)) == shared


def test_the_completion_is_that_of_its_prompt_alone():
    policy = model()
    prompts = [PROMPTS[i % 3] for i in range(9)]
    together = sampled(policy, prompts, range(9))
    for number, prompt in enumerate(prompts):
        assert sampled(policy, [prompt], [number]) == [together[number]]


def test_a_prompt_is_computed_once(monkeypatch):
    policy, seen = model(), []
    embed = policy.get_input_embeddings()
    embed.register_forward_hook(lambda _, inputs, __: seen.append(tuple(inputs[0].shape)))
    sampled(policy, [PROMPTS[2]] * 16, range(16), max_new_tokens=3)
    # six tokens of the prompt, then its last and two of the completions
    assert seen == [(1, 6), (16, 1), (16, 1), (16, 1)]


@pytest.mark.parametrize("window", [None, 4])
def test_a_model_with_a_window_of_attention_is_not_shared_and_is_right(window):
    policy = model(MistralForCausalLM, MistralConfig, sliding_window=window)
    assert generate.shares_prompts(policy, config()) == (window is None)
    prompts = [PROMPTS[i % 3] for i in range(6)]
    together = sampled(policy, prompts, range(6))
    assert together[4:5] == sampled(policy, [prompts[4]], [4])


def test_a_completion_ends_with_its_first_end_token():
    policy = model()
    with torch.no_grad():
        policy.lm_head.weight[END] += 0.5  # likelier
    found = sampled(policy, [PROMPTS[0]] * 40, range(40), max_new_tokens=8)
    assert {len(ids) for ids in found} > {2, 8}
    for ids in found:
        assert END not in ids[:-1]
        assert len(ids) == 8 or ids[-1] == END


def test_greedy_decoding_is_the_models_own():
    policy = model()
    [ours] = sampled(policy, [PROMPTS[0]], None, do_sample=False)
    ids = torch.tensor([PROMPTS[0]])
    theirs = policy.generate(
        ids, attention_mask=torch.ones_like(ids), generation_config=config(do_sample=False)
    )
    assert ours == [t for t in theirs[0, 3:].tolist() if t != 0][: len(ours)]


def test_the_demos_policy_is_shared(tmp_path):
    made = tiny.trainer(tmp_path)
    assert generate.shares_prompts(made.model, made.generation_config)
    tokenizer = AutoTokenizer.from_pretrained(tiny.BASE)
    prompt = tiny.ROWS[0]["prompt"]
    [completion] = made.complete([prompt], seeds=[1])
    assert completion.prompt_ids == tokenizer(prompt)["input_ids"]
